use std::time::Instant;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;

/// What `protoc --encode` makes of version 1, half a second into 1700000000, labels
/// instance="db1:9100" and job="node", attribute sequence="7", and the body `up 1\n` as it is.
const WHOLE: &str = "08011080e2cfaa061880cab5ee0122140a08696e7374616e636512086462313a39313030220b0a036a6f62\
                     12046e6f64652a0d0a0873657175656e636512013738057a05757020310a";

/// What `protoc --encode` makes of version 1, a millisecond before 1970, label job="", zstd, body size
/// 100, part 1 of 3 of 12345678901234567890, and the body `xyz`.
const PART: &str = "080110ffffffffffffffffff0118c08faedc0322050a036a6f62300138644a0d09d20a1feb8ca954ab10011803\
                    7a0378797a";

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<_> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
}

fn scrape(body: impl Into<Bytes>) -> Event {
    Event {
        labels: [("job", "node"), ("instance", "db1:9100")].into_iter().collect(),
        attributes: [("sequence", "7")].into_iter().collect(),
        ..Event::new(UNIX_EPOCH + Duration::from_millis(1_700_000_000_500), body)
    }
}

/// Bytes that do not compress.
fn noise(length: usize) -> Bytes {
    let mut state = 88_172_645_463_325_252_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..length).map(|_| next()).collect::<Vec<_>>().into()
}

#[test]
fn the_bytes_are_those_of_the_published_layout() {
    let event = scrape("up 1\n");
    assert_eq!(encode(&event, DEFAULT_LEVEL).unwrap(), hex(WHOLE));
    assert_eq!(decode(&hex(WHOLE)[..], &Limits::default()).unwrap(), event);

    let part = Envelope::parse(&hex(PART)[..], &Limits::default()).unwrap();
    assert_eq!(part.part(), Some(Part { whole: 12_345_678_901_234_567_890, index: 1, count: 3 }));
    assert_eq!(part.to_bytes(), hex(PART));
    assert!(matches!(part.open(&Limits::default()), Err(EnvelopeError::Part(_))));
}

#[test]
fn a_scrape_becomes_small_and_comes_back() {
    let text = "node_cpu_seconds_total{cpu=\"0\",mode=\"idle\"} 12345.67\n".repeat(1000);
    let event = scrape(text);
    let message = encode(&event, DEFAULT_LEVEL).unwrap();
    assert!(message.len() < 1000, "{} bytes", message.len());
    assert_eq!(decode(message, &Limits::default()).unwrap(), event);
}

#[test]
fn refusals_say_what_is_wrong() {
    let refusal = |message: &[u8], limits: Limits| decode(message, &limits).unwrap_err().to_string();
    let wire = |change: fn(&mut wire::Envelope)| {
        let mut envelope = Envelope::seal(&scrape("up 1\n".repeat(50)), DEFAULT_LEVEL).unwrap().0;
        change(&mut envelope);
        refusal(&envelope.encode_to_vec(), Limits { pairs: 2, text: 100, ..Limits::default() })
    };
    assert_eq!(wire(|e| e.version = 2), "unknown envelope version 2; this program knows version 1");
    assert_eq!(wire(|e| e.version = 0), "not an envelope: it has no version");
    assert_eq!(wire(|e| e.encoding = 7), "unknown body encoding 7; it was written by a later program");
    assert_eq!(wire(|e| e.labels.reverse()), wire(|e| e.labels[1] = e.labels[0].clone()));
    assert_eq!(wire(|e| e.labels.push(Pair::default())), "too large: 3 labels, the limit is 2");
    assert_eq!(
        wire(|e| e.attributes[0].value = "x".repeat(101)),
        "too large: 101 bytes of a label or attribute, the limit is 100"
    );
    assert_eq!(
        wire(|e| e.body_size = u64::MAX),
        "too large: 18446744073709551615 bytes of body, the limit is 67108864"
    );
    assert!(wire(|e| e.nanos = 1_000_000_000).contains("its time"));
    let damaged = "the body is damaged, or is not what it declares to be";
    assert!(wire(|e| e.body_size += 1).starts_with(damaged));
    assert!(wire(|e| e.body_size -= 1).starts_with(damaged));
    assert!(wire(|e| e.body = Bytes::from_static(b"nonsense")).starts_with(damaged));
    assert!(refusal(b"<html>", Limits::default()).starts_with("not an envelope: "));
    assert_eq!(refusal(b"", Limits::default()), "not an envelope: it has no version");
    let small = Limits { message: 10, ..Limits::default() };
    assert_eq!(refusal(&hex(WHOLE), small), "too large: 73 bytes of message, the limit is 10");
}

#[test]
fn any_time_that_the_machine_can_tell_comes_back() {
    for (seconds, nanos) in [(0, 0), (-1, 1), (i64::MIN, 0), (i64::MAX, 999_999_999)] {
        let Some(timestamp) = from_wire_time(seconds, nanos) else { continue };
        let event = Event { timestamp, ..scrape("") };
        assert_eq!(decode(encode(&event, 0).unwrap(), &Limits::default()).unwrap(), event);
    }
}

#[test]
fn a_bomb_goes_off_neither_in_memory_nor_in_time() {
    // 64 MiB of zeros in some kilobytes, declared honestly, too small, and hugely.
    let packed = codec::compress(&vec![0; 64 << 20], DEFAULT_LEVEL).unwrap();
    let mut bomb = Envelope::seal(&scrape(""), DEFAULT_LEVEL).unwrap().0;
    bomb.encoding = Encoding::Zstd.into();
    bomb.body = packed.into();
    let limits = Limits { body: 1 << 20, ..Limits::default() };
    for (declared, error) in [(64 << 20, "too large"), (1 << 20, "the body"), (1 << 50, "too large")] {
        bomb.body_size = declared;
        let start = Instant::now();
        let refused = decode(&bomb.encode_to_vec()[..], &limits).unwrap_err().to_string();
        assert!(refused.starts_with(error), "{declared}: {refused}");
        assert!(start.elapsed() < Duration::from_secs(1), "{declared}: {:?}", start.elapsed());
    }
    // Half a million labels of two bytes each are counted, and never made.
    let mut labels = hex("0801");
    labels.extend(hex("2200").repeat(500_000));
    let refused = decode(&labels[..], &limits).unwrap_err().to_string();
    assert_eq!(refused, "too large: 500000 labels, the limit is 256");
}

#[test]
fn parts_make_the_whole_again_and_nothing_else() {
    let event = scrape(noise(10_000));
    let limits = Limits::default();
    let parts = |event: &Event| Envelope::seal(event, DEFAULT_LEVEL).unwrap().split(1_000).unwrap();
    let messages: Vec<_> = parts(&event).iter().map(Envelope::to_bytes).collect();
    assert!(messages.len() > 10 && messages.iter().all(|message| message.len() <= 1_000));

    let read: Vec<_> =
        messages.iter().map(|message| Envelope::parse(message.clone(), &limits).unwrap()).collect();
    assert_eq!(Envelope::join(read.clone(), &limits).unwrap().open(&limits).unwrap(), event);

    let join = |parts: Vec<Envelope>| Envelope::join(parts, &limits).unwrap_err().to_string();
    assert!(join(read[1..].to_vec()).contains("belong together"));
    assert!(join(read[..read.len() - 1].to_vec()).contains("make the whole"));
    let mut mixed = read.clone();
    mixed[3] = parts(&scrape(noise(9_999))).remove(3);
    assert!(join(mixed).contains("belong together"));
    let tight = Limits { message: 5_000, ..limits };
    assert!(Envelope::join(read, &tight).unwrap_err().to_string().starts_with("too large"));
    let error = Envelope::seal(&event, DEFAULT_LEVEL).unwrap().split(50).unwrap_err().to_string();
    assert!(error.contains("labels and attributes in a message"), "{error}");
}

#[test]
fn the_hash_is_the_published_one_and_keeps_texts_apart() {
    assert_eq!(stable_hash([&b"foobar"[..]]), 0x8594_4171_f739_67e8);
    assert_ne!(stable_hash([&b"ab"[..], b"c"]), stable_hash([&b"a"[..], b"bc"]));
}

fn events() -> impl Strategy<Value = Event> {
    let map = || btree_map(".{0,20}", ".{0,40}", 0..6);
    let body = prop_oneof![vec(any::<u8>(), 0..2_000), "(up 1\n){0,500}".prop_map(String::into_bytes)];
    (map(), map(), body, any::<i32>(), 0..1_000_000_000_u32).prop_map(
        |(labels, attributes, body, seconds, nanos)| Event {
            timestamp: from_wire_time(i64::from(seconds) * 4, nanos).unwrap(),
            labels: labels.into_iter().collect(),
            attributes: attributes.into_iter().collect(),
            body: body.into(),
        },
    )
}

proptest! {
    #[test]
    fn what_was_written_is_read(event in events(), level in 0..5) {
        let message = encode(&event, level).unwrap();
        prop_assert_eq!(decode(message, &Limits::default()).unwrap(), event);
    }

    #[test]
    fn no_bytes_panic(message in vec(any::<u8>(), 0..300)) {
        let _ = decode(&message[..], &Limits::default());
    }

    #[test]
    fn no_damage_panics_or_passes_the_limits(event in events(), at in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let mut message = encode(&event, DEFAULT_LEVEL).unwrap().to_vec();
        let at = at.index(message.len());
        message[at] ^= 1 << bit;
        let limits = Limits { body: 3_000, ..Limits::default() };
        if let Ok(read) = decode(&message[..], &limits) {
            prop_assert!(read.body.len() <= limits.body);
        }
    }
}
