//! Waiting for a condition, with a deadline; there are no fixed sleeps in these tests.

use std::time::{Duration, Instant};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Asks `probe` again and again until it has something to tell.
///
/// # Panics
/// It has nothing to tell for as long as `deadline`.
pub async fn wait_for<T>(what: &str, deadline: Duration, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(start.elapsed() < deadline, "waited {deadline:?} in vain for {what}");
        tokio::time::sleep(POLL).await;
    }
}

/// Asks `probe` again and again until it says yes.
///
/// # Panics
/// It does not for as long as `deadline`.
pub async fn wait_until(what: &str, deadline: Duration, mut probe: impl AsyncFnMut() -> bool) {
    wait_for(what, deadline, async || probe().await.then_some(())).await;
}

/// Whole seconds, as a word.
pub const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
