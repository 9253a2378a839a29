//! What the gateway held before we began. Scrapes that were pushed and whose acknowledgement was lost in a
//! kill come again, and perhaps after newer ones; the time of each group's scrape stands in the gateway.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_streams_core::event::Labels;
use tokio::time::{sleep, timeout};

use super::PushGateway;
use super::key::GroupingKey;
use crate::exposition::{Entry, Format, Mode, ParseError, Parser};
use crate::support::http::HttpError;
use crate::support::report::TIMESTAMP;

/// How long pushes wait for the gateway to tell. One that takes longer has more to do than we.
const PATIENCE: Duration = Duration::from_secs(5);
/// The pause before a gateway that was not there is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

impl PushGateway {
    /// Asks the gateway what it holds, and marks the groups. Where it will not tell, we go on without.
    pub(super) async fn recall(&self) {
        loop {
            let pushes_wait = self.recalling.write().await;
            let why = match timeout(PATIENCE, self.gateway.page()).await {
                Ok(Ok(page)) => match times(&page) {
                    Ok(times) => return self.mark(times).await,
                    Err(error) => error.to_string(),
                },
                Ok(Err(HttpError::Connect(_) | HttpError::Broken(_))) => {
                    drop(pushes_wait);
                    sleep(ASK_AGAIN).await;
                    continue;
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("no answer within {PATIENCE:?}"),
            };
            tracing::info!(
                why,
                "the push gateway did not tell what it holds; an old scrape may land once more"
            );
            return;
        }
    }

    async fn mark(&self, times: Vec<(Labels, SystemTime)>) {
        for (labels, time) in times {
            // What has no key here is a group of somebody else.
            if let Ok(key) = GroupingKey::new(&labels, self.grouping.as_deref()) {
                self.groups.group(&key.path).lock().await.recall(time);
            }
        }
    }
}

/// When the scrapes on a gateway's page were taken, by the labels of their targets.
fn times(page: &[u8]) -> Result<Vec<(Labels, SystemTime)>, ParseError> {
    let mut parser = Parser::new(Format::Text, Mode::Compat, page);
    let mut times = Vec::new();
    while let Some(entry) = parser.next_entry()? {
        let Entry::Sample { name, value, .. } = entry else { continue };
        let after = Duration::try_from_secs_f64(value).ok().filter(|_| name == TIMESTAMP);
        if let Some(time) = after.and_then(|after| UNIX_EPOCH.checked_add(after)) {
            let labels = parser.labels().iter().map(|label| (label.name.as_ref(), label.value()));
            times.push((labels.collect(), time));
        }
    }
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_times_of_scrapes_are_read_from_the_page_and_nothing_else() {
        let page = b"# TYPE scrape_timestamp_seconds gauge\n\
            scrape_timestamp_seconds{instance=\"a\",job=\"j\"} 1.5e+09\n\
            scrape_timestamp_seconds{instance=\"b\",job=\"j\"} NaN\n\
            push_time_seconds{instance=\"a\",job=\"j\"} 1.6e+09\n";
        let times = times(page).unwrap();
        assert_eq!(times.len(), 1);
        assert_eq!(times[0].0.to_string(), r#"{instance="a", job="j"}"#);
        assert_eq!(times[0].1, UNIX_EPOCH + Duration::from_secs(1_500_000_000));
    }
}
