use super::*;

fn loopback(options: &UdpOptions) -> io::Result<UdpSocket> {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0).into(), options)
}

fn receive_all(socket: &UdpSocket, batch: &mut Batch, count: usize) -> io::Result<Vec<Vec<u8>>> {
    let mut all = Vec::new();
    while all.len() < count {
        assert!(
            socket.wait(Duration::from_secs(10), false, None)?.readable,
            "{} of {count} datagrams came",
            all.len()
        );
        socket.receive(batch)?;
        all.extend(batch.iter().map(|datagram| datagram.data.to_vec()));
    }
    Ok(all)
}

#[test]
fn runs_arrive_as_datagrams_with_and_without_offload() -> io::Result<()> {
    let options = UdpOptions {
        receive_buffer: Some(4 << 20),
        ..UdpOptions::default()
    };
    let (from, to) = (loopback(&options)?, loopback(&options)?);
    let data: Vec<u8> = (0..100_000_u32)
        .map(|n| n.to_le_bytes()[n as usize % 3])
        .collect();
    let mut batch = Batch::new(1500);
    for offload in [true, false] {
        if !offload {
            from.disable_segmentation();
        }
        let (mut sent, mut got) = (0, Vec::new());
        while sent < data.len() {
            let more = from.send_segments(to.local_address()?, &data[sent..], 1188)?;
            got.extend(receive_all(&to, &mut batch, more.div_ceil(1188))?);
            sent += more;
        }
        assert!(
            got.iter()
                .rev()
                .skip(1)
                .all(|datagram| datagram.len() == 1188)
        );
        assert_eq!(got.concat(), data);
    }
    assert_eq!(batch.truncated(), 0);
    Ok(())
}

#[test]
fn both_families_on_one_socket() -> io::Result<()> {
    let server = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0).into(), &UdpOptions::default())?;
    let port = server.local_address()?.port();
    let mut batch = Batch::new(1500);
    let clients = [
        Some(loopback(&UdpOptions::default())?),
        UdpSocket::bind((Ipv6Addr::LOCALHOST, 0).into(), &UdpOptions::default()).ok(),
    ];
    for client in clients.iter().flatten() {
        let own = client.local_address()?;
        client.send((own.ip(), port).into(), b"ping")?;
        receive_all(&server, &mut batch, 0)?;
        assert!(server.wait(Duration::from_secs(10), false, None)?.readable);
        server.receive(&mut batch)?;
        let got: Vec<_> = batch.iter().collect();
        assert_eq!(
            got,
            [Datagram {
                from: own,
                data: b"ping"
            }]
        );
        server.send(own, b"pong")?;
        assert_eq!(receive_all(client, &mut batch, 1)?, [b"pong"]);
    }
    Ok(())
}

#[test]
fn datagrams_that_are_too_long_are_counted_and_left_out() -> io::Result<()> {
    let (from, to) = (
        loopback(&UdpOptions::default())?,
        loopback(&UdpOptions::default())?,
    );
    let mut batch = Batch::new(100);
    from.send(to.local_address()?, &[1; 101])?;
    from.send(to.local_address()?, &[2; 100])?;
    from.send(to.local_address()?, &[])?;
    let got = receive_all(&to, &mut batch, 2)?;
    assert_eq!(got, [vec![2; 100], vec![]]);
    assert_eq!(batch.truncated(), 1);
    assert_eq!(to.receive(&mut batch)?, 0);
    Ok(())
}

#[test]
fn options_reach_the_kernel() -> io::Result<()> {
    let socket = UdpSocket::bind(
        (Ipv4Addr::UNSPECIFIED, 0).into(),
        &UdpOptions {
            receive_buffer: Some(64 << 10),
            send_buffer: Some(64 << 10),
            dscp: Some(34),
            hop_limit: Some(1),
        },
    )?;
    let sizes = socket.buffers()?;
    assert!(
        sizes.receive >= 64 << 10 && sizes.send >= 64 << 10,
        "{sizes:?}"
    );
    assert_eq!(getsockopt(&socket, sockopt::Ipv4Ttl)?, 1);
    socket.limit_hops(None)?;
    assert!(getsockopt(&socket, sockopt::Ipv4Ttl)? > 1, "the usual one");
    socket.limit_hops(Some(1))?;
    assert_eq!(getsockopt(&socket, sockopt::Ipv4Ttl)?, 1);
    assert_eq!(getsockopt(&socket, sockopt::Ipv4Tos)?, 34 << 2);
    let bad = UdpOptions {
        dscp: Some(64),
        ..UdpOptions::default()
    };
    assert!(loopback(&bad).is_err());
    Ok(())
}

#[test]
fn waiting_ends_by_waker_write_room_and_time() -> io::Result<()> {
    let socket = loopback(&UdpOptions::default())?;
    let waker = Waker::new()?;
    assert_eq!(
        socket.wait(Duration::ZERO, false, Some(&waker))?,
        Ready::default()
    );
    waker.wake();
    assert!(
        socket
            .wait(Duration::from_secs(600), false, Some(&waker))?
            .woken
    );
    assert!(
        socket
            .wait(Duration::from_secs(600), true, Some(&waker))?
            .writable
    );
    let taken = UdpSocket::bind(socket.local_address()?, &UdpOptions::default());
    assert_eq!(
        taken.err().map(|error| error.kind()),
        Some(io::ErrorKind::AddrInUse)
    );
    Ok(())
}
