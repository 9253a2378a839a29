//! What is reached without a proxy: the rules of `no_proxy` and `NO_PROXY`, as Go's `httpproxy` reads them.

use std::net::IpAddr;

/// A list of exceptions. The machine itself is always one.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Bypass {
    all: bool,
    rules: Vec<Rule>,
}

#[derive(Debug, PartialEq, Eq)]
enum Rule {
    Network { address: IpAddr, bits: u32 },
    Address { address: IpAddr, port: Option<String> },
    Domain { suffix: String, itself: bool, port: Option<String> },
}

impl Bypass {
    /// Reads a list that is separated by commas. What does not read like a rule matches nothing.
    pub(super) fn parse(text: &str) -> Self {
        let words = || text.split(',').map(|word| word.trim().to_lowercase());
        Self {
            all: words().any(|word| word == "*"),
            rules: words().filter_map(|word| Rule::parse(&word)).collect(),
        }
    }

    /// Whether an address is reached without the proxy.
    pub(super) fn covers(&self, host: &str, port: u16) -> bool {
        let host = host.trim_start_matches('[').trim_end_matches(']').to_lowercase();
        let address = host.parse::<IpAddr>().ok().map(|address| address.to_canonical());
        if host == "localhost" || address.is_some_and(|address| address.is_loopback()) {
            return true;
        }
        let port = port.to_string();
        self.all || self.rules.iter().any(|rule| rule.covers(&host, address, &port))
    }
}

impl Rule {
    fn parse(word: &str) -> Option<Self> {
        if let Some((address, bits)) = word.split_once('/')
            && let (Ok(address), Ok(bits)) = (address.parse::<IpAddr>(), bits.parse::<u32>())
            && bits <= width(address)
        {
            return Some(Self::Network { address, bits });
        }
        let (host, port) = split_port(word);
        if host.is_empty() {
            return None;
        }
        if let Ok(address) = host.parse::<IpAddr>() {
            return Some(Self::Address { address: address.to_canonical(), port });
        }
        let host = host.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(host);
        let bare = host.strip_prefix('.').unwrap_or(host);
        // As it stands in addresses: in ASCII.
        let bare = url::Host::parse(bare).map_or_else(|_| bare.to_owned(), |host| host.to_string());
        Some(Self::Domain { suffix: format!(".{bare}"), itself: !host.starts_with('.'), port })
    }

    fn covers(&self, host: &str, address: Option<IpAddr>, port: &str) -> bool {
        let fits = |wanted: &Option<String>| wanted.as_deref().is_none_or(|wanted| wanted == port);
        match self {
            Self::Network { address: network, bits } => {
                address.is_some_and(|address| is_within(address, *network, *bits))
            }
            Self::Address { address: known, port } => address == Some(*known) && fits(port),
            Self::Domain { suffix, itself, port } => {
                let is_it = host.ends_with(suffix) || (*itself && host == &suffix[1..]);
                address.is_none() && is_it && fits(port)
            }
        }
    }
}

/// Host and port of `host`, `host:port`, `[address]:port` or a bare address.
fn split_port(word: &str) -> (&str, Option<String>) {
    let split = match word.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') => Some((host, port)),
        Some((host, port)) if host.starts_with('[') && host.ends_with(']') => {
            Some((&host[1..host.len() - 1], port))
        }
        _ => None,
    };
    match split {
        Some((host, port)) => (host, Some(port.to_owned()).filter(|port| !port.is_empty())),
        None => (word, None),
    }
}

fn width(address: IpAddr) -> u32 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn is_within(address: IpAddr, network: IpAddr, bits: u32) -> bool {
    let number = |address| match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    };
    let rest = width(network) - bits;
    let prefix = |address| number(address).checked_shr(rest).unwrap_or(0);
    address.is_ipv4() == network.is_ipv4() && prefix(address) == prefix(network)
}
