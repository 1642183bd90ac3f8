//! A broker in a thread, and the socket that asks it.

use std::error::Error;
use std::os::fd::AsFd;
use std::path::Path;
use std::thread;

use nix::sys::socket::{MsgFlags, recv, send};
use soft_kvm_platform_linux::broker::{self, ANSWER_LEN, Ended, Grant, Grants, QUESTION_LEN};
use soft_kvm_platform_linux::{kms, uinput, v4l2};
use std::os::fd::AsRawFd;

type Outcome = Result<(), Box<dyn Error>>;

#[test]
fn what_the_story_does_not_name_is_refused() -> Outcome {
    let (ours, theirs) = broker::pair()?;
    let serving = thread::spawn(move || {
        broker::serve(theirs.as_fd(), || Grants {
            capture: Grant::Only("/dev/video7".into()),
            ..Grants::default()
        })
    });
    broker::use_broker(ours);
    assert!(broker::is_used());
    let text = uinput::probe().expect_err("not granted").to_string();
    assert!(text.contains("permission denied"), "{text}");
    for node in [
        "/dev/null",
        "/dev/video0",
        "/etc/passwd",
        "/dev/../etc/passwd",
    ] {
        let text = v4l2::inspect(Path::new(node))
            .expect_err("not granted")
            .to_string();
        assert!(text.to_lowercase().contains("permission"), "{node}: {text}");
    }
    assert!(kms::active_connectors(Path::new("/dev/dri/card0")).is_err());
    // The named one is not refused; this machine has none.
    let text = v4l2::inspect(Path::new("/dev/video7"))
        .expect_err("not there")
        .to_string();
    assert!(!text.to_lowercase().contains("permission"), "{text}");
    assert!(!serving.is_finished());
    Ok(())
}

#[test]
fn what_is_no_question_gets_an_error_and_no_descriptor() -> Outcome {
    let (ours, theirs) = broker::pair()?;
    let serving = thread::spawn(move || broker::serve(theirs.as_fd(), Grants::default));
    for bytes in [&[7_u8; QUESTION_LEN][..], &[1; 3], &[0; QUESTION_LEN + 400]] {
        send(ours.as_raw_fd(), bytes, MsgFlags::empty())?;
        let mut answer = [0; ANSWER_LEN + 1];
        assert_eq!(
            recv(ours.as_raw_fd(), &mut answer, MsgFlags::empty())?,
            ANSWER_LEN
        );
        let error = i32::from_ne_bytes(answer[4..8].try_into()?);
        assert_eq!(error, libc::EPROTO);
    }
    drop(ours);
    assert_eq!(serving.join().expect("no panic")?, Ended);
    Ok(())
}
