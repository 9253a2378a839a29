//! What the source is bound to.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;

use super::{Site, ask};

fn zeros(bytes: usize) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(b"# ").unwrap();
    for _ in 0..bytes / 4096 {
        encoder.write_all(&[b'0'; 4096]).unwrap();
    }
    encoder.finish().unwrap()
}

#[tokio::test]
async fn a_body_or_a_group_that_is_too_large_is_refused_and_says_what_allows_more() {
    let (site, _) = Site::delivering(json!({ "max_body_size": "1KiB" })).await;
    let long = format!("# {}\nx 1\n", "a".repeat(1024));
    let bomb = zeros(64 << 20);
    for (headers, body) in [(&[][..], long.as_bytes()), (&[("content-encoding", "gzip")], &bomb)] {
        // A bomb is larger than the limit before it is unpacked; a small one is not.
        let answer = ask(site.address(), "PUT", "/metrics/job/a", headers, body).await;
        assert_eq!(
            (answer.status, answer.text.trim()),
            (413, "the body is larger than 1KiB; `max_body_size` allows more")
        );
    }
    let answer =
        ask(site.address(), "PUT", "/metrics/job/a", &[("content-encoding", "gzip")], zeros(8192)).await;
    assert_eq!(answer.status, 413, "{answer:?}");
    let family = |name: &str| format!("{name}{{a=\"{}\"}} 1\n", "a".repeat(500));
    assert_eq!(site.push("POST", "job/a", family("x")).await.status, 200);
    let answer = site.push("POST", "job/a", family("y")).await;
    assert!(answer.status == 413 && answer.text.contains("the group would be larger"), "{answer:?}");
    assert_eq!(site.push("POST", "job/a", family("x")).await.status, 200, "what it has it may have again");
}

#[tokio::test]
async fn groups_are_so_many_and_no_more() {
    let (site, _) = Site::delivering(json!({ "max_groups": 2 })).await;
    for group in ["job/a", "job/b"] {
        assert_eq!(site.push("PUT", group, "x 1\n").await.status, 200);
    }
    let answer = site.push("PUT", "job/c", "x 1\n").await;
    assert_eq!(
        (answer.status, answer.text.trim()),
        (503, "there are 2 groups already; `max_groups` allows more")
    );
    assert_eq!(site.push("PUT", "job/a", "x 2\n").await.status, 200);
    assert_eq!(site.push("DELETE", "job/a", "").await.status, 202);
    assert_eq!(site.push("PUT", "job/c", "x 1\n").await.status, 200);
}

#[tokio::test]
async fn what_was_only_wished_for_takes_no_room() {
    let (site, _) =
        Site::delivering(json!({ "max_groups": 1, "max_body_size": "1KiB", "max_total_size": "1KiB" })).await;
    for number in 0..10 {
        assert_eq!(site.push("DELETE", &format!("job/{number}"), "").await.status, 202);
        assert_eq!(site.push("PUT", &format!("job/{number}"), "no scrape\n").await.status, 400);
        let large = format!("x{{a=\"{}\"}} 1\n", "a".repeat(990));
        assert_eq!(site.push("PUT", &format!("job/{number}"), large).await.status, 503);
    }
    for value in 0..50 {
        assert_eq!(site.push("PUT", "job/a", format!("x {value}\n")).await.status, 200);
    }
    let answer = site.push("PUT", "job/a", (0..5).map(|n| format!("y{n} 1\n")).collect::<String>()).await;
    assert!(answer.status == 503 && answer.text.contains("`max_total_size` allows more"), "{answer:?}");
}
