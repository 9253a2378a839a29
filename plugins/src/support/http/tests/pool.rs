//! Which connections are used again, and how many wait.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::super::pool::{Pool, Room};
use super::*;

/// A client with room for so many KiB of idle connections.
fn with_room(kib: u32) -> HttpClient {
    let pool = Pool::new(Box::leak(Box::new(Room::new(kib, u64::MAX))));
    let tls = ReloadingTls::new(&TlsSettings::default(), true).unwrap();
    let transport = Transport::with_pool(tls, Proxies::default(), pool);
    HttpClient::assemble(transport, None, ExtraHeaders::default(), MOST_REDIRECTS)
}

#[tokio::test]
async fn no_more_connections_wait_than_there_is_room_for() {
    let client = with_room(3);
    let mut servers = Vec::new();
    for _ in 0..5 {
        servers.push(TestServer::start(|_| Answer::ok("")).await);
    }
    for _ in 0..3 {
        for server in &servers {
            body_of(&client, &format!("http://{}/", server.address)).await.unwrap();
        }
    }
    let opened: Vec<_> = servers.iter().map(TestServer::connections).collect();
    assert_eq!(opened, [1, 1, 1, 3, 3]);
}

#[tokio::test]
async fn what_has_waited_long_is_closed_and_makes_room() {
    let client = with_room(1);
    let (one, two) =
        (TestServer::start(|_| Answer::ok("")).await, TestServer::start(|_| Answer::ok("")).await);
    let ask =
        async |server: &TestServer| body_of(&client, &format!("http://{}/", server.address)).await.unwrap();
    ask(&one).await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(301)).await;
    tokio::time::resume();
    for _ in 0..2 {
        ask(&two).await;
    }
    ask(&one).await;
    assert_eq!((one.connections(), two.connections()), (2, 1));
}

#[tokio::test]
async fn a_far_side_that_wants_to_close_is_left_alone() {
    let server = TestServer::start(|_| Answer::complete("200 OK", &["Connection: close"], "bye")).await;
    let client = HttpClient::new(&TlsSettings::default()).unwrap();
    for _ in 0..2 {
        let url = format!("http://{}/", server.address);
        assert_eq!(body_of(&client, &url).await.unwrap(), "bye");
    }
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn what_was_not_asked_for_is_not_taken_for_the_next_answer() {
    let server = TestServer::start(|_| {
        let mut answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood".to_vec();
        answer.extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil");
        Answer::Bytes(answer.into())
    })
    .await;
    let client = HttpClient::new(&TlsSettings::default()).unwrap();
    for _ in 0..3 {
        assert_eq!(body_of(&client, &format!("http://{}/", server.address)).await.unwrap(), "good");
    }
}

#[tokio::test]
async fn a_connection_with_half_a_request_in_it_is_not_used_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let mut open = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            // Answers when it has seen the beginning, and reads no further.
            let mut beginning = [0; 16];
            stream.read_exact(&mut beginning).await.unwrap();
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            open.push(stream);
        }
    });
    let client = HttpClient::new(&TlsSettings::default()).unwrap();
    let put = Request::put(&url).body(Bytes::from(vec![b'x'; 64 << 20])).unwrap();
    assert_eq!(client.send(put, &limits()).await.unwrap().status(), StatusCode::NO_CONTENT);
    let short = Limits { timeout: Duration::from_secs(5), ..limits() };
    assert_eq!(client.send(get(&url), &short).await.unwrap().status(), StatusCode::NO_CONTENT);
    server.abort();
}

#[test]
fn the_connections_that_wait_leave_half_of_the_files_to_others() {
    for (files, most) in [(1 << 20, 64 << 10), (100_000, 50_000), (1024, 512), (256, 128), (0, 1)] {
        let room = Room::new(64 << 10, files);
        let taken: Vec<_> = std::iter::from_fn(|| room.take(1)).collect();
        assert!(taken.len() <= most && taken.len() > most / 2, "{files}: {}", taken.len());
    }
}
