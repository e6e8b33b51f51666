//! Why the gate refused a message.

/// A request that is not let through, by what is wrong with it. The connection is closed after the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// A byte that no request starts with; TLS on a plain port, most often.
    #[error("this is no HTTP request (TLS sent to a port that speaks plain HTTP?)")]
    NotHttp,
    /// The first line is not `METHOD SP target SP HTTP/1.x`.
    #[error("the request line must be: method, one space, target, one space, HTTP/1.1")]
    RequestLine,
    /// The method has characters no method has.
    #[error("the method must be a token of at most 32 characters")]
    Method,
    /// CONNECT.
    #[error("CONNECT is not offered here")]
    Connect,
    /// A version other than 1.0 and 1.1.
    #[error("only HTTP/1.0, HTTP/1.1 and HTTP/2 are spoken here")]
    Version,
    /// The target's form does not fit the method, or it has bytes a target must not have.
    #[error(
        "the request target must be a path starting with '/', an http URL, or '*' for OPTIONS, in printable ASCII without '#' and '\\'"
    )]
    Target,
    /// `.` or `..` as a path element, plain or encoded.
    #[error("the path must not contain '.' or '..' as an element")]
    DotSegment,
    /// A line ends in LF alone, or has a CR in it.
    #[error("every line must end in CR LF and hold neither elsewhere")]
    LineEnd,
    /// A header line without colon, with a space before it, or with a name that is no token.
    #[error("a header line must be a token, a colon and a value")]
    HeaderName,
    /// A header line that starts with a space.
    #[error("header lines must not be folded")]
    Folded,
    /// A control character in a value.
    #[error("a header value must not contain control characters")]
    HeaderValue,
    /// A name that only differs by `_` from one that frames or routes a message.
    #[error("a header name must not imitate another one with '_'")]
    Imitation,
    /// No Host in HTTP/1.1.
    #[error("an HTTP/1.1 request must have a Host header")]
    NoHost,
    /// More than one Host.
    #[error("a request must have one Host header only")]
    Hosts,
    /// A Host that is no host.
    #[error("Host must be a name or address with an optional port from 1 to 65535")]
    Host,
    /// An absolute target that names another host than Host does.
    #[error("the host of the target and the Host header must agree")]
    HostMismatch,
    /// A Content-Length that is not one plain number.
    #[error("Content-Length must appear once and be a plain decimal number")]
    ContentLength,
    /// Both framings.
    #[error("Content-Length and Transfer-Encoding must not appear together")]
    TwoFramings,
    /// Any Transfer-Encoding but `chunked`, or one in HTTP/1.0.
    #[error("Transfer-Encoding must appear once, in HTTP/1.1, and be: chunked")]
    TransferEncoding,
    /// Expect with something other than `100-continue`.
    #[error("the only expectation known here is 100-continue")]
    Expect,
    /// An upgrade request that has a body.
    #[error("a request to upgrade must not have a body")]
    UpgradeWithBody,
    /// A bad chunk header.
    #[error("a chunk must be: size in hexadecimal, CR LF, data, CR LF")]
    Chunk,
    /// A bad chunk extension, or too long a one.
    #[error("chunk extensions must be ;name=value and short")]
    ChunkExtension,
    /// A trailer that must not be one.
    #[error("trailers must be header lines and neither frame, route nor authenticate a message")]
    Trailer,
    /// Too long a request line.
    #[error("the request line is too long")]
    TargetTooLong,
    /// Too long a head.
    #[error("the headers are too long")]
    HeadTooLong,
    /// Too many header lines.
    #[error("there are too many headers")]
    TooManyHeaders,
    /// A body over the limit.
    #[error("the body is longer than allowed")]
    BodyTooLong,
    /// The head or body came too slowly.
    #[error("the request did not arrive in time")]
    TooSlow,
}

// === impl Refusal ===

impl Refusal {
    /// The status a client is told.
    pub fn status(self) -> http::StatusCode {
        use http::StatusCode as S;
        match self {
            Self::Version => S::HTTP_VERSION_NOT_SUPPORTED,
            Self::Connect => S::NOT_IMPLEMENTED,
            Self::Expect => S::EXPECTATION_FAILED,
            Self::TargetTooLong => S::URI_TOO_LONG,
            Self::HeadTooLong | Self::TooManyHeaders => S::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::BodyTooLong => S::PAYLOAD_TOO_LARGE,
            Self::TooSlow => S::REQUEST_TIMEOUT,
            _ => S::BAD_REQUEST,
        }
    }

    /// A short name for metrics.
    pub fn name(self) -> String {
        format!("{self:?}")
    }
}
