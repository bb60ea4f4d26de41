//! Sends the calls of a JSON file with the Rust SDK: URL PREFIX WRITE_KEY CALLS_JSON [batch].
//!
//! Without `batch` each call is a request of its own, and says its type only by its path.

use std::{env, fs, process};

use analytics::batcher::Batcher;
use analytics::client::Client;
use analytics::http::HttpClient;
use analytics::message::{
    Alias, BatchMessage, Group, Identify, Message, Page, Screen, Track, User,
};
use serde_json::Value;

fn text(call: &Value, name: &str) -> String {
    call[name].as_str().unwrap_or_default().to_owned()
}

fn user(call: &Value) -> User {
    let user_id = text(call, "userId");
    match call["anonymousId"].as_str() {
        Some(id) => User::Both {
            user_id,
            anonymous_id: id.to_owned(),
        },
        None => User::UserId { user_id },
    }
}

fn message(call: &Value) -> BatchMessage {
    let user = user(call);
    let context = call.get("context").cloned();
    let properties = call["properties"].clone();
    let traits = call["traits"].clone();
    let name = text(call, "name");
    match call["type"].as_str() {
        Some("track") => BatchMessage::Track(Track {
            user,
            context,
            properties,
            event: text(call, "event"),
            ..Default::default()
        }),
        Some("identify") => BatchMessage::Identify(Identify {
            user,
            context,
            traits,
            ..Default::default()
        }),
        Some("page") => BatchMessage::Page(Page {
            user,
            context,
            properties,
            name,
            ..Default::default()
        }),
        Some("screen") => BatchMessage::Screen(Screen {
            user,
            context,
            properties,
            name,
            ..Default::default()
        }),
        Some("group") => BatchMessage::Group(Group {
            user,
            context,
            traits,
            group_id: text(call, "groupId"),
            ..Default::default()
        }),
        Some("alias") => BatchMessage::Alias(Alias {
            user,
            context,
            previous_id: text(call, "previousId"),
            ..Default::default()
        }),
        other => panic!("unknown type {other:?}"),
    }
}

fn single(message: BatchMessage) -> Message {
    match message {
        BatchMessage::Track(track) => Message::Track(track),
        BatchMessage::Identify(identify) => Message::Identify(identify),
        BatchMessage::Page(page) => Message::Page(page),
        BatchMessage::Screen(screen) => Message::Screen(screen),
        BatchMessage::Group(group) => Message::Group(group),
        BatchMessage::Alias(alias) => Message::Alias(alias),
    }
}

fn main() {
    let arguments: Vec<String> = env::args().collect();
    let [_, url, prefix, write_key, calls_path, mode @ ..] = arguments.as_slice() else {
        panic!("expected URL PREFIX WRITE_KEY CALLS_JSON [batch]");
    };
    let calls: Vec<Value> = serde_json::from_str(&fs::read_to_string(calls_path).unwrap()).unwrap();
    let client = HttpClient::new(reqwest::Client::new(), format!("{url}{prefix}"));

    let requests: Vec<(usize, Message)> = if mode.is_empty() {
        calls
            .iter()
            .map(|call| (1, single(message(call))))
            .collect()
    } else {
        let mut batcher = Batcher::new(None);
        for call in &calls {
            assert!(
                batcher.push(message(call)).unwrap().is_none(),
                "too much for one batch"
            );
        }
        vec![(calls.len(), batcher.into_message())]
    };
    let mut delivered = 0;
    for (count, request) in &requests {
        match client.send(write_key, request) {
            Ok(()) => delivered += count,
            Err(error) => eprintln!("not delivered: {error}"),
        }
    }
    println!("delivered {delivered}");
    process::exit(i32::from(delivered != calls.len()));
}
