//! Groups that outlive the source.

use std::path::Path;

use serde_json::{Value, json};

use prometheus_streams_core::testing::pipe;
use tokio_util::sync::CancellationToken;

use super::{Site, series, source};
use crate::support::server::{free_port, temp_dir};
use crate::support::wait::{secs, wait_until};

fn settings(dir: &Path) -> Value {
    json!({ "persistence": { "path": dir }, "interval": "200ms" })
}

const HISTOGRAM: &str =
    "# HELP h A.\n# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_sum 3\nh_count 2\n";

#[tokio::test]
async fn groups_are_there_again_after_a_restart_and_go_on_as_they_were() {
    let dir = temp_dir();
    let (site, _) = Site::delivering(settings(dir.path())).await;
    site.push("PUT", "job/a", HISTOGRAM).await;
    site.push("POST", "job/a", "x 1\nx 1\n").await;
    site.push("PUT", "job/b/l@base64/Lw", "y{a=\"\"} NaN\n").await;
    site.push("PUT", "job/c", "z 1\n").await;
    site.push("DELETE", "job/c", "").await;
    let before = site.metrics().await;
    site.end().await;

    let (site, events) = Site::delivering(settings(dir.path())).await;
    assert_eq!(site.metrics().await, before);
    assert_eq!(series(before.as_bytes()).len(), 9, "{before}");
    wait_until("both to be repeated", secs(20), async || {
        let events = events.lock().unwrap();
        ["a", "b"].iter().all(|job| events.iter().any(|event| event.labels.get("job") == Some(job)))
    })
    .await;
    assert_eq!(site.push("POST", "job/a", "x 2\n").await.status, 200);
    assert!(site.metrics().await.contains("h_count{instance=\"\",job=\"a\"} 2\n"));
    assert_eq!(
        site.push("PUT", "job/d", "# TYPE x counter\nx 1\n").await.status,
        400,
        "what came back is not checked"
    );
}

#[tokio::test]
async fn a_file_that_is_broken_is_put_aside_and_the_others_are_read() {
    let dir = temp_dir();
    let (site, _) = Site::delivering(settings(dir.path())).await;
    site.push("PUT", "job/a", "x 1\n").await;
    site.end().await;
    let file = std::fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().path());
    let file = file.into_iter().find(|file| file.extension().is_some_and(|kind| kind == "group")).unwrap();
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(dir.path().join("0.unfinished"), &whole[..5]).unwrap();
    let (site, _) = Site::delivering(settings(dir.path())).await;
    site.push("PUT", "job/b", "y 1\n").await;
    site.end().await;
    for (number, length) in (0..whole.len()).step_by(7).enumerate() {
        std::fs::write(dir.path().join(format!("{number}.group")), &whole[..length]).unwrap();
    }
    let mut flipped = whole.clone();
    flipped[20] ^= 1;
    std::fs::write(&file, flipped).unwrap();

    let (site, _) = Site::delivering(settings(dir.path())).await;
    let page = site.metrics().await;
    assert!(page.contains("y{instance=\"\",job=\"b\"} 1\n") && !page.contains("x{"), "{page}");
    assert!(file.with_extension("corrupt").exists() && !dir.path().join("0.unfinished").exists());
}

#[tokio::test]
async fn a_disk_that_does_not_take_a_group_is_tried_again() {
    let dir = temp_dir();
    let path = dir.path().join("groups");
    let (site, _) = Site::delivering(settings(&path)).await;
    std::fs::remove_dir_all(&path).unwrap();
    for group in ["job/a", "job/b"] {
        assert_eq!(site.push("PUT", group, "x 1\n").await.status, 200, "the stream has it");
    }
    std::fs::create_dir(&path).unwrap();
    let written = || std::fs::read_dir(&path).unwrap().map(|file| file.unwrap().path());
    wait_until("both to be written", secs(20), async || {
        written().filter(|file| file.extension().is_some_and(|kind| kind == "group")).count() == 2
    })
    .await;
}

#[tokio::test]
async fn one_directory_is_for_one_source() {
    let dir = temp_dir();
    let (_site, _) = Site::delivering(settings(dir.path())).await;
    let second = source(free_port(), settings(dir.path())).run(pipe(1).0, CancellationToken::new());
    let error = second.await.unwrap_err().to_string();
    assert!(error.contains("another source of type push has it"), "{error}");
}
