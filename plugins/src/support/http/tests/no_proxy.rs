//! The rules of `no_proxy`, with the verdicts of Go's `httpproxy`.

use super::super::no_proxy::Bypass;

#[test]
fn rules_are_read_as_go_reads_them() {
    for (rules, host, port, direct) in [
        // The machine itself is always direct.
        ("", "localhost", 80, true),
        ("", "127.0.0.2", 80, true),
        ("", "[::1]", 80, true),
        ("", "db1", 80, false),
        ("*", "db1.example.net", 80, true),
        ("x, *", "10.0.0.1", 443, true),
        // Domains: themselves and all below, or with a dot only those below.
        ("example.net", "example.net", 80, true),
        ("example.net", "db1.example.net", 80, true),
        ("example.net", "DB1.Example.NET", 80, true),
        ("example.net", "badexample.net", 80, false),
        (".example.net", "db1.example.net", 80, true),
        (".example.net", "example.net", 80, false),
        ("*.example.net", "db1.example.net", 80, true),
        ("*.example.net", "example.net", 80, false),
        ("d*.example.net", "db1.example.net", 80, false),
        ("example.net:8080", "db1.example.net", 8080, true),
        ("example.net:8080", "db1.example.net", 80, false),
        (" a , EXAMPLE.net ", "db1.example.net", 80, true),
        ("bücher.example", "xn--bcher-kva.example", 80, true),
        // Addresses and networks.
        ("10.0.0.1", "10.0.0.1", 80, true),
        ("10.0.0.1", "10.0.0.11", 80, false),
        ("10.0.0.1:80", "10.0.0.1", 80, true),
        ("10.0.0.1:80", "10.0.0.1", 81, false),
        ("10.0.0.0/8", "10.255.0.1", 9100, true),
        ("10.0.0.0/8", "11.0.0.1", 9100, false),
        ("0.0.0.0/0", "8.8.8.8", 80, true),
        ("0.0.0.0/0", "[2001:db8::1]", 80, false),
        ("10.0.0.0/33", "10.0.0.1", 80, false),
        ("2001:db8::/32", "[2001:db8:1::1]", 80, true),
        ("2001:db8::/32", "[2001:db9::1]", 80, false),
        ("::/0", "[2001:db9::1]", 80, true),
        ("2001:db8::1", "[2001:db8::1]", 80, true),
        ("[2001:db8::1]:80", "[2001:db8::1]", 80, true),
        ("[2001:db8::1]:80", "[2001:db8::1]", 81, false),
        ("10.0.0.0/8", "[::ffff:10.0.0.1]", 80, true),
        // An address is no name.
        ("0.0.1", "10.0.0.1", 80, false),
        (":80", "db1", 80, false),
        (",,", "db1", 80, false),
    ] {
        assert_eq!(Bypass::parse(rules).covers(host, port), direct, "{host}:{port} by {rules:?}");
    }
}
