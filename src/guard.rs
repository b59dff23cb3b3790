//! Where the daemon's own requests may go (webhooks, what agents fetch): public addresses, and those
//! networks that the configuration names.
//!
//! A name is resolved for each connection, and the connection is made to the very addresses that
//! were judged: a name that answers otherwise the second time gains nothing. One address that is
//! refused refuses the name. Link-local addresses, where clouds keep their metadata, are never
//! reached, whatever the configuration says.

use std::{
    fmt::Debug,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use futures_util::future::BoxFuture;
use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Why an address is not connected to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GuardError {
    /// It leads inside.
    #[error("{address} is {what}, and not in the configuration's `networks`")]
    Inside {
        /// The address.
        address: IpAddr,
        /// What kind of address it is.
        what: &'static str,
    },
    /// It is where clouds keep their credentials.
    #[error("{address} is link-local, where clouds keep their metadata: never reached")]
    LinkLocal {
        /// The address.
        address: IpAddr,
    },
    /// Everybody on the way would read it.
    #[error("{address} is public and the URL is http: use https")]
    Plain {
        /// The address.
        address: IpAddr,
    },
    /// The name has no address.
    #[error("`{name}` has no address: {why}")]
    Unresolved {
        /// The name.
        name: String,
        /// What the resolver said.
        why: String,
    },
}

/// Finds the addresses of a name.
trait Lookup: Debug + Send + Sync {
    /// Asks once; the port of the answers counts for nothing.
    fn lookup(&self, name: String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>>;
}

/// The system's resolver.
#[derive(Debug)]
struct System;

impl Lookup for System {
    fn lookup(&self, name: String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((name, 0)).await?.collect()) })
    }
}

/// Judges addresses for one kind of request. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Guard {
    networks: Arc<[IpNet]>,
    /// Is what is sent encrypted?
    tls: bool,
    lookup: Arc<dyn Lookup>,
}

impl Guard {
    pub(crate) fn new(networks: Vec<IpNet>, tls: bool) -> Self {
        Self { networks: networks.into(), tls, lookup: Arc::new(System) }
    }

    /// Judges an address.
    pub(crate) fn judge(&self, address: IpAddr) -> Result<(), GuardError> {
        let real = embedded(address);
        if is_link_local(real) || is_link_local(address) {
            return Err(GuardError::LinkLocal { address });
        }
        if self.networks.iter().any(|network| network.contains(&real)) {
            return Ok(());
        }
        match inside(real) {
            Some(what) => Err(GuardError::Inside { address, what }),
            None if !self.tls => Err(GuardError::Plain { address }),
            None => Ok(()),
        }
    }

    /// Resolves a name to addresses that may all be connected to.
    pub(crate) async fn resolve(&self, name: String) -> Result<Vec<SocketAddr>, GuardError> {
        let unresolved = |why: String| GuardError::Unresolved { name: name.clone(), why };
        let found = self.lookup.lookup(name.clone()).await;
        let found = found.map_err(|error| unresolved(error.to_string()))?;
        if found.is_empty() {
            return Err(unresolved("the answer is empty".to_owned()));
        }
        for address in &found {
            self.judge(address.ip())?;
        }
        Ok(found)
    }
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let found = Self::resolve(&guard, name.as_str().to_owned()).await?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// The IPv4 address that an IPv6 one stands for (mapped, NAT64, and the old compatible form), else
/// the address itself.
fn embedded(address: IpAddr) -> IpAddr {
    let IpAddr::V6(six) = address else { return address };
    let segments = six.segments();
    let tail = || {
        let [a, b] = segments[6].to_be_bytes();
        let [c, d] = segments[7].to_be_bytes();
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match segments {
        // ::1 and :: are their own.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => address,
        [0, 0, 0, 0, 0, 0 | 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => tail(),
        _ => address,
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(four) => four.is_link_local(),
        IpAddr::V6(six) => six.segments()[0] & 0xffc0 == 0xfe80,
    }
}

/// Says what kind of address it is, if it is not a public one (IANA's special-purpose registries).
fn inside(address: IpAddr) -> Option<&'static str> {
    let listed = INSIDE.iter().find(|(network, _)| network.contains(&address));
    listed.map(|(_, what)| *what).or(match address {
        // Only 2000::/3 is given out.
        IpAddr::V6(six) if six.segments()[0] & 0xe000 != 0x2000 => Some("reserved"),
        _ => None,
    })
}

const fn v4(octets: [u8; 4], bits: u8) -> IpNet {
    IpNet::new_assert(IpAddr::V4(Ipv4Addr::from_octets(octets)), bits)
}

const fn v6(segments: [u16; 8], bits: u8) -> IpNet {
    IpNet::new_assert(IpAddr::V6(Ipv6Addr::from_segments(segments)), bits)
}

const INSIDE: &[(IpNet, &str)] = &[
    (v4([0, 0, 0, 0], 8), "this host's"),
    (v4([10, 0, 0, 0], 8), "private"),
    (v4([100, 64, 0, 0], 10), "shared (carrier-grade NAT)"),
    (v4([127, 0, 0, 0], 8), "loopback"),
    (v4([172, 16, 0, 0], 12), "private"),
    (v4([192, 0, 0, 0], 24), "reserved"),
    (v4([192, 0, 2, 0], 24), "for documentation"),
    (v4([192, 88, 99, 0], 24), "reserved"),
    (v4([192, 168, 0, 0], 16), "private"),
    (v4([198, 18, 0, 0], 15), "for benchmarks"),
    (v4([198, 51, 100, 0], 24), "for documentation"),
    (v4([203, 0, 113, 0], 24), "for documentation"),
    (v4([224, 0, 0, 0], 4), "multicast"),
    (v4([240, 0, 0, 0], 4), "reserved"),
    (v6([0, 0, 0, 0, 0, 0, 0, 1], 128), "loopback"),
    (v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7), "private"),
    // Teredo, ORCHID and their like; 6to4 carries an IPv4 address past every list of them.
    (v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23), "reserved"),
    (v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32), "for documentation"),
    (v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16), "6to4"),
    (v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20), "for documentation"),
];

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn judge(guard: &Guard, address: &str) -> Result<(), GuardError> {
        guard.judge(address.parse().unwrap())
    }

    #[test]
    fn case_28_every_way_inside_is_refused() {
        let guard = Guard::new(Vec::new(), true);
        for address in [
            "127.0.0.1",
            "127.255.0.3",
            "0.0.0.0",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "100.100.100.200",
            "192.0.0.192",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "203.0.113.9",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "fc00::1",
            "fd00:ec2::254",
            "fec0::1",
            "ff02::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
        ] {
            let refused = judge(&guard, address);
            assert!(matches!(refused, Err(GuardError::Inside { .. })), "{address}: {refused:?}");
        }
        for address in ["1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "::ffff:1.1.1.1"]
        {
            assert_eq!(judge(&guard, address), Ok(()), "{address}");
        }
    }

    #[test]
    fn case_28_link_local_is_refused_even_where_a_network_allows_it() {
        let all = ["0.0.0.0/0", "::/0"].map(|text| text.parse().unwrap());
        let guard = Guard::new(all.to_vec(), true);
        for address in
            ["169.254.169.254", "::ffff:169.254.169.254", "fe80::1", "64:ff9b::a9fe:a9fe"]
        {
            let refused = judge(&guard, address);
            assert!(matches!(refused, Err(GuardError::LinkLocal { .. })), "{address}");
        }
        assert_eq!(judge(&guard, "127.0.0.1"), Ok(()));
    }

    #[test]
    fn plain_http_stays_inside() {
        let guard = Guard::new(vec!["10.0.0.0/8".parse().unwrap()], false);
        assert_eq!(judge(&guard, "10.1.1.1"), Ok(()));
        assert_eq!(judge(&guard, "::ffff:10.1.1.1"), Ok(()));
        assert!(matches!(judge(&guard, "1.1.1.1"), Err(GuardError::Plain { .. })));
        assert!(matches!(judge(&guard, "127.0.0.1"), Err(GuardError::Inside { .. })));
    }

    /// A resolver with a list of answers.
    #[derive(Debug)]
    struct Told(Mutex<Vec<Vec<&'static str>>>);

    impl Lookup for Told {
        fn lookup(&self, _: String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
            let answer = self.0.lock().unwrap().remove(0);
            let answer = answer.into_iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), 0));
            let answer = answer.collect();
            Box::pin(async move { Ok(answer) })
        }
    }

    #[tokio::test]
    async fn case_28_a_name_that_turns_inside_is_refused_when_it_does() {
        let answers = vec![vec!["1.1.1.1"], vec!["127.0.0.1"], vec!["1.1.1.1", "10.0.0.1"], vec![]];
        let lookup = Arc::new(Told(Mutex::new(answers)));
        let guard = Guard { lookup, ..Guard::new(Vec::new(), true) };
        let ask = async || guard.resolve("rebinds.example".to_owned()).await;
        // What is connected to is what was judged.
        assert_eq!(ask().await, Ok(vec!["1.1.1.1:0".parse().unwrap()]));
        assert!(matches!(ask().await, Err(GuardError::Inside { what: "loopback", .. })));
        assert!(matches!(ask().await, Err(GuardError::Inside { what: "private", .. })));
        assert!(matches!(ask().await, Err(GuardError::Unresolved { .. })));
    }
}
