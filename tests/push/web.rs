//! A web configuration file: who may push.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::*;
use crate::support::server::temp_dir;

#[tokio::test]
async fn who_has_no_password_pushes_nothing() {
    let dir = temp_dir();
    let file = dir.path().join("web.yml");
    let hash = bcrypt::hash("secret", 4).unwrap();
    std::fs::write(&file, json!({ "basic_auth_users": { "job": hash } }).to_string()).unwrap();
    let (site, events) = Site::delivering(json!({ "web_config_file": file })).await;
    let push = async |password: &str, body: &str| {
        let login = format!("Basic {}", STANDARD.encode(format!("job:{password}")));
        ask(site.address(), "PUT", "/metrics/job/backup", &[("authorization", &login)], body).await.status
    };
    assert_eq!(site.push("PUT", "job/backup", "x 1\n").await.status, 401);
    assert_eq!(push("wrong", "x 1\n").await, 401);
    // Whether a body is good is for those to know who may push.
    assert_eq!(push("wrong", "x\n").await, 401);
    assert_eq!(push("secret", "x\n").await, 400);
    assert!(events.lock().unwrap().is_empty());
    assert_eq!(push("secret", "x 1\n").await, 200);
    assert_eq!(events.lock().unwrap().len(), 1);
    site.end().await;
}
