use std::time::SystemTime;

use prometheus_streams_core::testing::ManualClock;
use tempfile::TempDir;

use super::*;

const AGE: Duration = Duration::from_secs(60);

/// A directory, and a clock that stands still.
struct Place {
    dir: TempDir,
    clock: ManualClock,
}

impl Place {
    fn new() -> Self {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        Self { dir: tempfile::tempdir().unwrap(), clock: ManualClock::new(start) }
    }

    /// The stream as a program finds it that has just started.
    async fn open(&self, max_size: u64) -> Arc<Store> {
        let limits = Limits { max_age: AGE, max_size };
        Store::at(self.dir.path(), Some(limits), Arc::new(self.clock.clone())).await.unwrap()
    }
}

async fn append(store: &Arc<Store>, texts: &[&'static str]) {
    for text in texts {
        store.append(Bytes::from_static(text.as_bytes())).await.unwrap();
    }
}

async fn texts(subscription: &Subscription) -> Vec<String> {
    let page = subscription.page(subscription.floor()).await.unwrap();
    page.records.iter().map(|(_, text)| String::from_utf8(text.to_vec()).unwrap()).collect()
}

fn kill(store: Arc<Store>, subscription: Subscription) {
    drop(subscription);
    assert_eq!(Arc::strong_count(&store), 1, "the stream is still open");
}

#[tokio::test]
async fn records_and_cursors_are_there_after_an_end_without_notice() {
    let place = Place::new();
    let store = place.open(1 << 20).await;
    append(&store, &["a", "b", "c", "d"]).await;
    let reader = store.subscribe("reader").await.unwrap();
    let page = reader.page(reader.floor()).await.unwrap();
    reader.answer(page.records[0].0);
    reader.answer(page.records[2].0);
    reader.save().await.unwrap();
    reader.answer(page.records[3].0);
    kill(store, reader);

    let store = place.open(1 << 20).await;
    let reader = store.subscribe("reader").await.unwrap();
    assert_eq!(texts(&reader).await, ["b", "d"], "what was not saved comes again");
    append(&store, &["e"]).await;
    assert_eq!(texts(&reader).await, ["b", "d", "e"]);
    assert_eq!(texts(&store.subscribe("other").await.unwrap()).await, ["a", "b", "c", "d", "e"]);
}

#[tokio::test]
async fn old_records_go_and_are_counted_as_lost() {
    let place = Place::new();
    let store = place.open(1 << 20).await;
    let reader = store.subscribe("reader").await.unwrap();
    append(&store, &["a", "b", "c"]).await;
    let page = reader.page(reader.floor()).await.unwrap();
    reader.answer(page.records[1].0);
    place.clock.advance(AGE);
    append(&store, &["d"]).await;
    assert_eq!(store.usage().borrow().records, 4, "not older than the limit");

    place.clock.advance(Duration::from_millis(1));
    store.sweep().await.unwrap();
    assert_eq!(store.usage().borrow().records, 1);
    let page = reader.page(reader.floor()).await.unwrap();
    assert_eq!((page.records.len(), page.lost), (1, 2));
    place.clock.advance(AGE * 2);
    store.sweep().await.unwrap();
    assert_eq!(*store.usage().borrow(), Usage { next: page.next, records: 0, bytes: 0 });
    // With nothing left, the next sequence is still the next.
    kill(store, reader);
    let store = place.open(1 << 20).await;
    append(&store, &["e"]).await;
    assert_eq!(store.usage().borrow().next, page.next + 1);
}

#[tokio::test]
async fn the_oldest_go_when_there_is_too_much_and_their_bytes_leave_the_disk() {
    let place = Place::new();
    let store = place.open(4 << 20).await;
    let body = |number: u8| Bytes::from(vec![number; 1 << 18]);
    for number in 0..100 {
        store.append(body(number)).await.unwrap();
    }
    let usage = *store.usage().borrow();
    assert!((usage.records, usage.bytes <= 4 << 20) == (15, true), "{usage:?}");
    let reader = store.subscribe("reader").await.unwrap();
    let page = reader.page(reader.floor()).await.unwrap();
    assert_eq!((page.records[0].1[0], page.lost), (85, 0));
    drop(page);

    let tables = || {
        let keyspaces = std::fs::read_dir(place.dir.path().join("store/keyspaces")).unwrap();
        keyspaces.count()
    };
    assert!(tables() < 12, "{} keyspaces", tables());
    let refused = store.append(Bytes::from(vec![0; (4 << 20) + 1])).await;
    assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
}

#[tokio::test]
async fn many_writers_share_a_flush_and_none_is_lost() {
    let place = Place::new();
    let store = place.open(1 << 20).await;
    let first = {
        store.sweep().await.unwrap();
        store.usage().borrow().next
    };
    let writes = (0..200u8).map(|number| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.append(vec![number].into()).await })
    });
    let writes: Vec<_> = writes.collect();
    // Whoever gives up must not take those along that wait with it.
    for write in writes.iter().step_by(10) {
        write.abort();
    }
    let mut written = 0;
    for write in writes {
        written += u64::from(write.await.is_ok_and(|result| result.is_ok()));
    }
    assert!(written >= 180);
    let reader = store.subscribe("reader").await.unwrap();
    let page = reader.page(first).await.unwrap();
    assert!(page.records.len() as u64 >= written);
    assert!(page.records.iter().map(|(sequence, _)| *sequence).eq(first..page.next), "a gap");
}

#[tokio::test]
async fn dead_letters_are_kept_with_their_reason_up_to_a_number() {
    let place = Place::new();
    let store = place.open(1 << 20).await;
    let reader = store.subscribe("reader").await.unwrap();
    append(&store, &["bad", "good"]).await;
    let bad = reader.floor();
    reader.bury(bad, &"no ".repeat(1_000)).await.unwrap();
    kill(store, reader);

    let store = place.open(1 << 20).await;
    let letters = store.dead_letters().await.unwrap();
    assert_eq!((letters.len(), &letters[0].message[..], letters[0].reason.len()), (1, &b"bad"[..], 1_000));
    let reader = store.subscribe("reader").await.unwrap();
    assert_eq!(texts(&reader).await, ["good"]);
    for number in 0..1_050 {
        reader.bury(bad + 1, &number.to_string()).await.unwrap();
    }
    let letters = store.dead_letters().await.unwrap();
    assert!((500..=1_000).contains(&letters.len()), "{}", letters.len());
    assert_eq!(letters.last().unwrap().reason, "1049");
}

/// Leaves records, spoils the directory, and sees that the work goes on with a new stream.
async fn spoil(how: impl FnOnce(&Path)) {
    let place = Place::new();
    let store = place.open(1 << 20).await;
    append(&store, &["a", "b"]).await;
    let reader = store.subscribe("reader").await.unwrap();
    let next = store.usage().borrow().next;
    kill(store, reader);
    how(place.dir.path());

    place.clock.advance(Duration::from_secs(1));
    let store = place.open(1 << 20).await;
    append(&store, &["c"]).await;
    assert!(place.dir.path().join("damaged").exists());
    assert!(!place.dir.path().join("opening").exists());
    assert!(store.usage().borrow().next > next, "sequences meet those of the stream before");
    assert_eq!(texts(&store.subscribe("reader").await.unwrap()).await, ["c"]);
}

#[tokio::test]
async fn a_damaged_stream_is_moved_aside_and_a_new_one_begun() {
    // A bit of a record has turned.
    spoil(|path| {
        let journal = path.join("store/0.jnl");
        let mut bytes = std::fs::read(&journal).unwrap();
        let record = bytes.windows(9).position(|window| window.ends_with(b"b") && window[0] == 0).unwrap();
        bytes[record + 8] ^= 1;
        std::fs::write(&journal, bytes).unwrap();
    })
    .await;
    // A file is gone.
    spoil(|path| std::fs::remove_file(path.join("store/keyspaces/0/current")).unwrap()).await;
    // Three programs died when they opened it.
    spoil(|path| std::fs::write(path.join("opening"), "3").unwrap()).await;
}

#[tokio::test]
async fn a_stream_that_was_not_finished_is_begun_again() {
    let place = Place::new();
    std::fs::create_dir_all(place.dir.path().join("store/keyspaces")).unwrap();
    std::fs::write(place.dir.path().join("store/0.jnl"), "").unwrap();
    append(&place.open(1 << 20).await, &["a"]).await;
}

#[tokio::test]
async fn pipelines_share_a_stream_and_its_limits() {
    let place = Place::new();
    let one = place.open(1 << 20).await;
    let same = Store::at(&place.dir.path().join("."), None, Arc::new(place.clock.clone())).await.unwrap();
    assert!(Arc::ptr_eq(&one, &same));
    let other = Limits { max_age: AGE * 2, max_size: 1 << 20 };
    let refused = Store::at(place.dir.path(), Some(other), Arc::new(place.clock.clone())).await;
    assert!(matches!(refused, Err(StoreError::Refused(_))));
}

#[tokio::test]
async fn a_place_that_cannot_be_a_directory_is_named() {
    let place = Place::new();
    let file = place.dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let Err(error) = Store::at(&file, None, Arc::new(place.clock.clone())).await else {
        panic!("opened a file as a directory")
    };
    assert!(error.to_string().starts_with(&format!("cannot make the directory {}: ", file.display())));
}
