//! Software H.264 over Cisco's OpenH264.
