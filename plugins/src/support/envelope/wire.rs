//! The messages of `envelope.proto`, written by hand so that no build needs `protoc`. The golden bytes
//! in the tests of [`super`] were made by `protoc` from that file.

use bytes::Bytes;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Envelope {
    #[prost(uint32, tag = "1")]
    pub(super) version: u32,
    #[prost(int64, tag = "2")]
    pub(super) seconds: i64,
    #[prost(uint32, tag = "3")]
    pub(super) nanos: u32,
    #[prost(message, repeated, tag = "4")]
    pub(super) labels: Vec<Pair>,
    #[prost(message, repeated, tag = "5")]
    pub(super) attributes: Vec<Pair>,
    #[prost(enumeration = "Encoding", tag = "6")]
    pub(super) encoding: i32,
    #[prost(uint64, tag = "7")]
    pub(super) body_size: u64,
    #[prost(message, optional, tag = "9")]
    pub(super) part: Option<Part>,
    #[prost(bytes = "bytes", tag = "15")]
    pub(super) body: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Pair {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) value: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(super) enum Encoding {
    Identity = 0,
    Zstd = 1,
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(super) struct Part {
    #[prost(fixed64, tag = "1")]
    pub(super) whole: u64,
    #[prost(uint32, tag = "2")]
    pub(super) index: u32,
    #[prost(uint32, tag = "3")]
    pub(super) count: u32,
}

/// What is looked at first: the version, and how many pairs there are. A `Vec` of `()` counts without
/// allocating, where a few bytes on the wire would otherwise become many in memory.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Outline {
    #[prost(uint32, tag = "1")]
    pub(super) version: u32,
    #[prost(message, repeated, tag = "4")]
    pub(super) labels: Vec<()>,
    #[prost(message, repeated, tag = "5")]
    pub(super) attributes: Vec<()>,
}
