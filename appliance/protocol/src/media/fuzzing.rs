//! Bodies of the fuzz targets in `fuzz/`, which are one line each. Not a public interface.

use super::{
    AccessUnitAssembler, CodedFormat, ColourDescription, FrameExtensions, MasterKey, Opener,
    SequenceParameterSet, Ssrc, announces_idr, classify, header_len, nal_units, rtcp,
};

/// RTP headers and header extensions.
pub fn rtp(data: &[u8]) {
    let _ = classify(data);
    let _ = header_len(data);
    let _ = FrameExtensions::parse(data);
    if let Ok(packet) = rtp_types::RtpPacket::parse(data) {
        let _ = (FrameExtensions::of(&packet), packet.payload());
    }
}

/// Compound RTCP packets.
pub fn rtcp(data: &[u8]) {
    let _ = rtcp::read(data, |_| {});
}

/// Sealed packets that nobody sealed; none may open.
pub fn srtp(data: &[u8]) {
    let key = MasterKey::new([1; 16], [2; 12]);
    let ssrc = data.get(8..12).and_then(|ssrc| ssrc.first_chunk());
    let ssrc = Ssrc(u32::from_be_bytes(*ssrc.unwrap_or(&[0; 4])));
    assert!(
        Opener::new(&key, ssrc)
            .open_rtp(&mut data.to_vec())
            .is_err()
    );
    let ssrc = data.get(4..8).and_then(|ssrc| ssrc.first_chunk());
    let ssrc = Ssrc(u32::from_be_bytes(*ssrc.unwrap_or(&[0; 4])));
    assert!(
        Opener::new(&key, ssrc)
            .open_rtcp(&mut data.to_vec())
            .is_err()
    );
}

/// RTP payloads of H.264, each behind its length in one byte.
pub fn h264_depacketize(data: &[u8]) {
    depacketize(CodedFormat::H264, data);
}

/// RTP payloads of FWHT, each behind its length in one byte.
pub fn fwht_depacketize(data: &[u8]) {
    depacketize(CodedFormat::Fwht, data);
}

fn depacketize(format: CodedFormat, mut data: &[u8]) {
    let mut assembler = AccessUnitAssembler::default();
    assembler.begin(format);
    while let Some((&len, rest)) = data.split_first() {
        let (payload, rest) = rest.split_at(rest.len().min(usize::from(len)));
        data = rest;
        let _ = announces_idr(format, payload);
        if assembler.push(payload).is_err() {
            assembler.clear();
        }
        let _ = assembler.finish();
    }
}

/// Sequence parameter sets, alone and in a byte stream.
pub fn h264_sps(data: &[u8]) {
    for nal in std::iter::once(data).chain(nal_units(data)) {
        if let Some(set) = SequenceParameterSet::parse(nal) {
            assert!(set.size().is_supported());
            let colours = ColourDescription {
                full_range: true,
                primaries: 9,
                transfer: 14,
                matrix: 9,
            };
            if let Some(added) = colours.add_to(nal) {
                let described =
                    SequenceParameterSet::parse(&added).map(|new| SequenceParameterSet {
                        full_range: set.full_range,
                        matrix_coefficients: set.matrix_coefficients,
                        ..new
                    });
                assert_eq!(described, Some(set), "all else stays as it is");
                assert_eq!(colours.add_to(&added), None, "once is enough");
            }
        }
    }
}
