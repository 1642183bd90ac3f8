//! The session description (RFC 8866) of the decrypted stream, for local players.

use std::fmt;
use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::h264::ParameterSets;
use super::rtp::{H264_PAYLOAD_TYPE, VIDEO_CLOCK_HZ};

/// Where the stream goes and what it is. `Display` writes the description, with the line ends of the RFC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SdpParameters {
    /// The player's address.
    pub address: IpAddr,
    /// The player's RTP port; RTCP goes to the one above.
    pub port: u16,
    /// The session's name, for people.
    pub name: String,
    /// SPS and PPS, so that a player can set its decoder up before the first key frame.
    pub parameter_sets: Option<ParameterSets>,
}

impl fmt::Display for SdpParameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = if self.address.is_ipv4() { "IP4" } else { "IP6" };
        let address = self.address;
        // A line break in the name would begin a line of its own.
        let name: String = self.name.chars().filter(|c| !c.is_control()).collect();
        let name = if name.is_empty() { "-" } else { &name };
        let payload_type = H264_PAYLOAD_TYPE;
        write!(f, "v=0\r\no=- 0 0 IN {family} {address}\r\ns={name}\r\n")?;
        write!(f, "c=IN {family} {address}\r\nt=0 0\r\n")?;
        write!(f, "m=video {} RTP/AVP {payload_type}\r\n", self.port)?;
        write!(f, "a=rtpmap:{payload_type} H264/{VIDEO_CLOCK_HZ}\r\n")?;
        write!(f, "a=fmtp:{payload_type} packetization-mode=1")?;
        if let Some(sets) = &self.parameter_sets {
            // RFC 6184 §8.1: the three bytes behind the SPS's NAL unit header.
            if let Some([_, profile, constraints, level]) = sets.sps.first_chunk() {
                write!(
                    f,
                    ";profile-level-id={profile:02x}{constraints:02x}{level:02x}"
                )?;
            }
            let (sps, pps) = (STANDARD.encode(&sets.sps), STANDARD.encode(&sets.pps));
            write!(f, ";sprop-parameter-sets={sps},{pps}")?;
        }
        write!(f, "\r\na=recvonly\r\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_has_the_documented_lines() {
        let sdp = SdpParameters {
            address: [127, 0, 0, 1].into(),
            port: 5004,
            name: "rack\r\nm=audio".into(),
            parameter_sets: Some(ParameterSets {
                sps: vec![0x67, 0x42, 0xc0, 0x28, 0xff],
                pps: vec![0x68, 0xce, 0x3c, 0x80],
            }),
        };
        let expected = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=rackm=audio\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
            m=video 5004 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n\
            a=fmtp:96 packetization-mode=1;profile-level-id=42c028;sprop-parameter-sets=Z0LAKP8=,aM48gA==\r\n\
            a=recvonly\r\n";
        assert_eq!(sdp.to_string(), expected);
    }
}
