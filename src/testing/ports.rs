//! Ports that are free at the moment.

use std::net::Ipv4Addr;
use std::net::TcpListener;

use crate::testing::error::Error;
use crate::testing::error::Result;

/// Below the ports that systems give to outgoing connections: a node that was killed finds its own still free.
const RANGE: std::ops::Range<u16> = 20_000..32_000;

/// `N` different free ports on the loopback. Another process may take them first: be ready to try again.
pub(super) fn free<const N: usize>() -> Result<[u16; N]> {
    let first = fastrand::u16(RANGE);
    // Held until all are found, so that none is given twice.
    let held: Vec<TcpListener> = (first..RANGE.end)
        .chain(RANGE.start..first)
        .filter_map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok())
        .take(N)
        .collect();
    let ports: Vec<u16> = held.iter().filter_map(|it| it.local_addr().ok()).map(|it| it.port()).collect();
    ports
        .try_into()
        .map_err(|_| Error::new(format!("no {N} free ports between {} and {}", RANGE.start, RANGE.end)))
}
