//! Published ports and the way out: what they say, and what they cannot mean together.

use crate::manifest::diagnostic::Diagnostic;
use crate::manifest::types::{At, Manifest, Service};
use crate::values::Network;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;

/// An address of the host, and the port inside that it leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publish {
    pub address: SocketAddr,
    pub port: u16,
    /// Is the service told who connects, by a header before all else?
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<ProxyProtocol>,
}

/// A version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProxyProtocol {
    V1,
    V2,
}

/// The published ports of one service that can be understood, and where each stands.
pub(super) fn read(of: &[At<String>], found: &mut Vec<Diagnostic>) -> (Vec<Publish>, Vec<Range<usize>>) {
    let mut out = (Vec::new(), Vec::new());
    for at in of {
        match parse(&at.value) {
            Ok(publish) => {
                out.0.push(publish);
                out.1.push(at.span.clone());
            }
            Err(help) => found.push(
                Diagnostic::error(at.span.clone(), format!("\"{}\" says no port to publish", at.value)).help(help),
            ),
        }
    }
    out
}

/// `[ADDRESS:]PORT:PORT`, as docker has it, but for the address that is taken where none is named: this machine alone.
/// Behind it may stand `/tcp`, or `/proxy-v1` or `/proxy-v2`. The error is what to write instead.
fn parse(text: &str) -> Result<Publish, String> {
    let form = || "write [ADDRESS:]PORT:PORT, the host's first, such as \"127.0.0.1:8080:80\"".to_owned();
    let (ports, proxy) = match text.rsplit_once('/') {
        None => (text, None),
        Some((ports, "tcp")) => (ports, None),
        Some((ports, "proxy-v1")) => (ports, Some(ProxyProtocol::V1)),
        Some((ports, "proxy-v2")) => (ports, Some(ProxyProtocol::V2)),
        Some((ports, other)) if other.starts_with("proxy") => {
            return Err(format!(
                "name the version of the PROXY protocol: \"{ports}/proxy-v1\" or \"{ports}/proxy-v2\""
            ));
        }
        Some((ports, _)) => return Err(format!("only TCP can be published: \"{ports}\"")),
    };
    let Some((outside, inside)) = ports.rsplit_once(':') else {
        return Err(match ports.parse::<u16>() {
            Ok(port) if port > 0 => format!("name the host's port too: \"{port}:{port}\""),
            _ => form(),
        });
    };
    let (address, outside) = match outside.rsplit_once(':') {
        None => (IpAddr::V4(Ipv4Addr::LOCALHOST), outside),
        Some((address, port)) => {
            let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']'));
            let parsed = match bare {
                Some(bare) => bare.parse().ok().map(IpAddr::V6),
                None => address.parse().ok().map(IpAddr::V4),
            };
            let parsed = parsed.ok_or_else(|| {
                if address.parse::<std::net::Ipv6Addr>().is_ok() {
                    format!("put the address into brackets: \"[{address}]:{port}:{inside}\"")
                } else {
                    format!("names are not looked up; write an address: \"127.0.0.1:{port}:{inside}\"")
                }
            })?;
            (parsed, port)
        }
    };
    let port = |text: &str| text.parse::<u16>().ok().filter(|p| *p != 0).ok_or_else(form);
    Ok(Publish {
        address: SocketAddr::new(address, port(outside)?),
        port: port(inside)?,
        proxy,
    })
}

/// Do two sockets bound to these get in each other's way? An address of all zeroes is every address of its family, and
/// `::` as the standard library binds it takes IPv4 as well.
pub(super) fn meet(one: SocketAddr, other: SocketAddr) -> bool {
    covers(one, other) || covers(other, one)
}

/// Does a socket bound to the first take all connections to the other?
pub(super) fn covers(one: SocketAddr, other: SocketAddr) -> bool {
    let all = one.ip().is_unspecified() && (one.is_ipv6() || other.is_ipv4());
    one.port() == other.port() && (one.ip() == other.ip() || all)
}

pub(super) fn check(manifest: &Manifest, found: &mut Vec<Diagnostic>) {
    // Addresses that are listened on are checked against each other where they are read.
    let mut bound: Vec<(SocketAddr, Range<usize>)> = Vec::new();
    for (_, table) in &manifest.services {
        bound.extend(
            table
                .listen
                .iter()
                .filter_map(|at| Some((at.value.parse().ok()?, at.span.clone()))),
        );
    }
    let mut shared: Vec<(u16, Range<usize>)> = Vec::new();
    for (name, table) in &manifest.services {
        let network = network_of(table);
        if let (Network::Host, Some(at)) = (network, &table.network) {
            let mut pointless = |span: &Range<usize>, what: &str| {
                found.push(
                    Diagnostic::error(span.clone(), format!("`{}` has the host's network: {what}", name.value))
                        .other(at.span.clone(), "here")
                        .help("write network = \"none\" or \"app\", or take this out"),
                );
            };
            if let Some(first) = table.publish.first() {
                pointless(&first.span, "its ports are the host's already");
            }
            if let Some(egress) = table.egress.as_ref().filter(|e| e.value) {
                pointless(&egress.span, "it reaches the outside already");
            }
            continue;
        }
        for at in &table.publish {
            let Ok(publish) = parse(&at.value) else { continue };
            if let Some((other, first)) = bound.iter().find(|(other, _)| meet(publish.address, *other)) {
                found.push(
                    Diagnostic::error(
                        at.span.clone(),
                        format!("{} is taken by {other} of this manifest", publish.address),
                    )
                    .other(first.clone(), "first here")
                    .help("give one of them another port"),
                );
                continue;
            }
            bound.push((publish.address, at.span.clone()));
            if network != Network::App {
                continue;
            }
            // One service may publish one port of its twice; two services cannot both listen on it.
            let theirs = shared
                .iter()
                .find(|(port, span)| *port == publish.port && !table.publish.iter().any(|own| own.span == *span));
            if let Some((port, first)) = theirs {
                found.push(
                    Diagnostic::error(
                        at.span.clone(),
                        format!("two services of the app's network would listen on port {port}"),
                    )
                    .other(first.clone(), "first here")
                    .help("have one of them listen on another port, or give it a network of its own"),
                );
            }
            shared.push((publish.port, at.span.clone()));
        }
    }
    app_egress(manifest, found);
}

fn network_of(table: &Service) -> Network {
    table.network.as_ref().map(|n| n.value).unwrap_or_default()
}

/// What is granted to one service of a shared network, all others have as well; so all must say it.
fn app_egress(manifest: &Manifest, found: &mut Vec<Diagnostic>) {
    let members = || {
        manifest
            .services
            .iter()
            .filter(|(_, table)| network_of(table) == Network::App)
    };
    let granted = |table: &Service| table.egress.as_ref().is_some_and(|e| e.value);
    let Some((owner, at)) = members()
        .find(|(_, table)| granted(table))
        .and_then(|(name, table)| Some((name, table.egress.as_ref()?)))
    else {
        return;
    };
    for (name, _) in members().filter(|(_, table)| !granted(table)) {
        found.push(
            Diagnostic::error(
                name.span.clone(),
                format!(
                    "`{}` would reach the outside too: it shares the app's network with `{}`",
                    name.value, owner.value
                ),
            )
            .other(at.span.clone(), "granted here")
            .help("write egress = true for it as well, or give one of them network = \"none\""),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let of = |text| parse(text).map(|p| (p.address.to_string(), p.port));
        assert_eq!(of("8080:80"), Ok(("127.0.0.1:8080".into(), 80)));
        assert_eq!(of("0.0.0.0:8080:80/tcp"), Ok(("0.0.0.0:8080".into(), 80)));
        assert_eq!(of("[::1]:8080:80"), Ok(("[::1]:8080".into(), 80)));
        assert_eq!(parse("8080:80/tcp").unwrap().proxy, None);
        assert_eq!(parse("8080:80/proxy-v1").unwrap().proxy, Some(ProxyProtocol::V1));
        assert_eq!(parse("[::1]:8080:80/proxy-v2").unwrap().proxy, Some(ProxyProtocol::V2));
        assert!(parse("8080:80/proxy").unwrap_err().contains("8080:80/proxy-v1"));
        for wrong in [
            "",
            ":",
            "80",
            "0:80",
            "80:0",
            "a:80",
            "localhost:1:2",
            "::1:1:2",
            "1:2/udp",
            "1:2/proxy-v3",
            "/proxy-v1",
            "1-2:3-4",
            "70000:1",
            "1:2:3:4",
        ] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn addresses_that_meet() {
        let meet = |a: &str, b: &str| meet(a.parse().unwrap(), b.parse().unwrap());
        assert!(meet("0.0.0.0:1", "127.0.0.1:1") && meet("127.0.0.1:1", "[::]:1") && meet("[::]:1", "[::1]:1"));
        assert!(!meet("0.0.0.0:1", "[::1]:1") && !meet("127.0.0.2:1", "127.0.0.1:1") && !meet("[::1]:1", "[::1]:2"));
    }
}
