//! Datagrams that reached a socket and found no room (proc_net(5), `udp`): who should have taken them was too slow, not the network.

/// Of all IPv4 sockets of this network namespace at a port, since they were opened; 0 if the kernel does not say.
pub(crate) fn overflowed(port: u16) -> u64 {
    std::fs::read_to_string("/proc/thread-self/net/udp").map_or(0, |text| parse(&text, port))
}

/// Columns: number, local address as `ADDRESS:PORT` in hexadecimal digits, ..., and drops as the last one.
fn parse(text: &str, port: u16) -> u64 {
    let of_line = |line: &str| {
        let mut words = line.split_whitespace();
        let (_, local) = words.nth(1)?.rsplit_once(':')?;
        (u16::from_str_radix(local, 16).ok()? == port).then(|| words.next_back()?.parse::<u64>().ok()).flatten()
    };
    text.lines().skip(1).filter_map(of_line).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn what_finds_no_room_is_counted() {
        let text = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
                    7: 00000000:138C 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4711 2 0 12\n\
                    8: 0100007F:138C 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4712 2 0 3\n\
                    9: 0100007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4713 2 0 9\n";
        assert_eq!((parse(text, 5004), parse(text, 53), parse(text, 1)), (15, 9, 0));
        let full = UdpSocket::bind("127.0.0.1:0").unwrap();
        let at = full.local_addr().unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..20_000 {
            sender.send_to(&[0; 100], at).unwrap();
        }
        assert!(overflowed(at.port()) > 0);
    }
}
