//! Fragmented MP4 (ISO/IEC 14496-12 and -15): the header, and one movie fragment after the other.

use mp4_atom::{
    Atom as _, Avc1, Avcc, AvccExt, Codec, Colr, Dinf, Dref, DrefEntry, Encode, Ftyp, Hdlr, Mdhd,
    Mdia, Mfhd, Minf, Moof, Moov, Mvex, Mvhd, Stbl, Stsd, Tfdt, Tfhd, Tkhd, Traf, Trak, Trex, Trun,
    TrunEntry, TrunSamples, Url, Visual, Vmhd,
};
use soft_kvm_protocol::media::SequenceParameterSet;

/// Ticks in a second of every time in the file: RTP's clock for video.
pub(super) const TIMESCALE: u32 = 90_000;

const TRACK: u32 = 1;

/// `sample_flags` of 8.8.3.1: depends on no other sample.
const SYNC: u32 = 0x0200_0000;
/// `sample_flags`: depends on others, is not a sync sample.
const NOT_SYNC: u32 = 0x0101_0000;

/// One access unit in the fragment that is being filled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// Ticks until the next one.
    pub(super) duration: u32,
    /// Bytes with the lengths before the NAL units.
    pub(super) size: u32,
    /// A decoder can start here.
    pub(super) idr: bool,
}

/// `ftyp` and `moov` for one H.264 track.
pub(super) fn header(
    sps: &[u8],
    pps: &[u8],
    info: SequenceParameterSet,
) -> mp4_atom::Result<Vec<u8>> {
    let mut avcc = Avcc::new(sps, pps)?;
    if SequenceParameterSet::names_chroma_format(avcc.avc_profile_indication) {
        avcc.ext = Some(AvccExt {
            chroma_format: info.chroma_format_idc,
            bit_depth_luma: info.bit_depth_luma,
            bit_depth_chroma: info.bit_depth_chroma,
            sequence_parameter_sets_ext: Vec::new(),
        });
    }
    let side = |pixels: u32| u16::try_from(pixels).unwrap_or(u16::MAX);
    let (width, height) = (side(info.size().width), side(info.size().height));
    let entry = Avc1 {
        visual: Visual {
            data_reference_index: 1,
            width,
            height,
            ..Visual::default()
        },
        avcc,
        // BT.709, limited range: what the program sends.
        colr: Some(Colr::new(1, 1, 1, false)?),
        ..Avc1::default()
    };
    let track = Trak {
        tkhd: Tkhd {
            track_id: TRACK,
            enabled: true,
            in_movie: true,
            width: width.into(),
            height: height.into(),
            ..Tkhd::default()
        },
        mdia: Mdia {
            mdhd: Mdhd {
                timescale: TIMESCALE,
                language: "und".to_owned(),
                ..Mdhd::default()
            },
            hdlr: Hdlr {
                handler: b"vide".into(),
                name: "Soft KVM".to_owned(),
            },
            minf: Minf {
                vmhd: Some(Vmhd::default()),
                dinf: Dinf {
                    dref: Dref {
                        entries: vec![DrefEntry::Url(Url::default())],
                    },
                },
                stbl: Stbl {
                    stsd: Stsd {
                        codecs: vec![Codec::Avc1(entry)],
                    },
                    ..Stbl::default()
                },
                ..Minf::default()
            },
        },
        ..Trak::default()
    };
    let movie = Moov {
        mvhd: Mvhd {
            timescale: TIMESCALE,
            rate: 1.into(),
            volume: 1.into(),
            next_track_id: TRACK + 1,
            ..Mvhd::default()
        },
        mvex: Some(Mvex {
            mehd: None,
            trex: vec![Trex {
                track_id: TRACK,
                default_sample_description_index: 1,
                default_sample_flags: NOT_SYNC,
                ..Trex::default()
            }],
        }),
        trak: vec![track],
        ..Moov::default()
    };
    let brands = Ftyp {
        major_brand: b"isom".into(),
        minor_version: 512,
        compatible_brands: [b"isom", b"iso6", b"avc1", b"mp41"]
            .map(Into::into)
            .to_vec(),
    };
    let mut out = Vec::with_capacity(1_024);
    brands.encode(&mut out)?;
    movie.encode(&mut out)?;
    Ok(out)
}

/// Writes `moof` and the head of `mdat` for `samples` to `out`, replacing what is there; the samples' bytes, `length` of
/// them, have to follow.
pub(super) fn fragment_head(
    out: &mut Vec<u8>,
    sequence: u32,
    start: u64,
    samples: &[Sample],
    length: usize,
) -> mp4_atom::Result<()> {
    let entries = samples
        .iter()
        .map(|sample| TrunEntry {
            duration: Some(sample.duration),
            size: Some(sample.size),
            flags: Some(if sample.idr { SYNC } else { NOT_SYNC }),
            cts: None,
        })
        .collect();
    let mut fragment = Moof {
        mfhd: Mfhd {
            sequence_number: sequence,
        },
        traf: vec![Traf {
            tfhd: Tfhd {
                track_id: TRACK,
                default_base_is_moof: true,
                ..Tfhd::default()
            },
            tfdt: Some(Tfdt {
                base_media_decode_time: start,
            }),
            trun: vec![Trun {
                data_offset: Some(0),
                samples: TrunSamples::Explicit(entries),
            }],
            ..Traf::default()
        }],
    };
    // The samples begin after this box and the next one's head; its length does not depend on the value.
    out.clear();
    fragment.encode(out)?;
    let offset = i32::try_from(out.len() + 8).map_err(|_| mp4_atom::Error::TooLarge(Moof::KIND))?;
    for run in fragment.traf.iter_mut().flat_map(|traf| &mut traf.trun) {
        run.data_offset = Some(offset);
    }
    out.clear();
    fragment.encode(out)?;
    let size =
        u32::try_from(length + 8).map_err(|_| mp4_atom::Error::TooLarge(mp4_atom::Mdat::KIND))?;
    out.extend_from_slice(&size.to_be_bytes());
    out.extend_from_slice(b"mdat");
    Ok(())
}

#[cfg(test)]
mod tests {
    use mp4_atom::{Any, Mdat, ReadFrom as _};

    use super::*;

    #[test]
    fn a_fragment_points_at_its_first_sample() {
        let samples = [
            Sample {
                duration: 3_000,
                size: 5,
                idr: true,
            },
            Sample {
                duration: 1_500,
                size: 2,
                idr: false,
            },
        ];
        let mut bytes = Vec::new();
        fragment_head(&mut bytes, 7, 1 << 33, &samples, 7).expect("a small fragment");
        let head = bytes.len();
        bytes.extend_from_slice(b"first2.");
        let mut input = bytes.as_slice();
        let Ok(Any::Moof(moof)) = Any::read_from(&mut input) else {
            panic!("not a moof");
        };
        let Ok(Any::Mdat(Mdat { data })) = Any::read_from(&mut input) else {
            panic!("not an mdat");
        };
        assert_eq!(data, b"first2.");
        assert_eq!(moof.mfhd.sequence_number, 7);
        let traf = &moof.traf[0];
        assert_eq!(
            traf.tfdt.as_ref().map(|t| t.base_media_decode_time),
            Some(1 << 33)
        );
        assert_eq!(traf.trun[0].data_offset, i32::try_from(head).ok());
        assert_eq!(traf.trun[0].samples.len(), 2);
    }
}
