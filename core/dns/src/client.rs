//! Asking one server for addresses, with hickory's resolver.

use std::net::{IpAddr, SocketAddr};

use hickory_net::{DnsError, NetError};
use hickory_proto::op::ResponseCode;

use crate::server::resolver;

/// Why a name has no address.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server says so.
    #[error("{name}: no such name")]
    Unknown {
        /// The name.
        name: String,
    },
    /// It exists, without addresses.
    #[error("{name}: has no address")]
    Nothing {
        /// The name.
        name: String,
    },
    /// The server is not responsible, and asks nobody.
    #[error("{name}: in none of the cluster's zones, and it has no spec.dns.upstreams to ask")]
    Refused {
        /// The name.
        name: String,
    },
    /// No answer.
    #[error("{name}: {source}")]
    Other {
        /// The name.
        name: String,
        /// Why.
        #[source]
        source: NetError,
    },
}

/// All addresses of a name, as a server has them.
pub async fn addresses(server: SocketAddr, name: &str) -> Result<Vec<IpAddr>, Error> {
    let text = name.to_owned();
    let failed = |source: NetError| match source {
        NetError::Dns(DnsError::NoRecordsFound(none)) if none.response_code == ResponseCode::NXDomain => {
            Error::Unknown { name: text.clone() }
        }
        NetError::Dns(DnsError::NoRecordsFound(_)) => Error::Nothing { name: text.clone() },
        NetError::Dns(DnsError::ResponseCode(ResponseCode::Refused)) => Error::Refused { name: text.clone() },
        source => Error::Other { name: text.clone(), source },
    };
    let full = format!("{}.", name.trim_end_matches('.'));
    let found = resolver(&[server]).map_err(&failed)?.lookup_ip(full).await.map_err(failed)?;
    Ok(found.iter().collect())
}
