//! What a person, or a program, is shown while a device takes part.

use std::io::IsTerminal;
use std::sync::Arc;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::client::{Event, Watch};
use crate::train::Control;

/// One JSON object an event.
pub(super) fn lines() -> Watch {
    Arc::new(|event| {
        let line = match event {
            Event::Waiting { retry, reason } => {
                json!({"event": "waiting", "retry_ms": retry.as_millis() as u64, "reason": reason})
            }
            Event::Assigned { round, manifest } => {
                json!({"event": "assigned", "round": round, "run": manifest.name})
            }
            Event::Downloaded { round, bytes } => {
                json!({"event": "downloaded", "round": round, "bytes": bytes})
            }
            Event::Evaluated { round, targets, nats } => {
                json!({"event": "evaluated", "round": round, "targets": targets, "nats": nats})
            }
            Event::Training(progress) => json!({
                "event": "training",
                "step": progress.step,
                "steps": progress.steps,
                "loss": progress.loss,
            }),
            Event::Paused { round, need, retry } => json!({
                "event": "paused",
                "round": round,
                "reason": need.to_string(),
                "retry_ms": retry.as_millis() as u64,
            }),
            Event::Resumed { round, step } => {
                json!({"event": "resumed", "round": round, "step": step})
            }
            Event::Trained { .. } => return Control::Continue,
            Event::Uploading { bytes, predicted } => {
                json!({"event": "uploading", "bytes": bytes, "predicted_bytes": predicted})
            }
            Event::Delivered(contribution) => json!({
                "event": "delivered",
                "round": contribution.receipt.round,
                "update": contribution.receipt.update,
                "loss": contribution.loss,
                "entries": contribution.entries,
                "bytes": contribution.update_bytes,
            }),
            Event::Included { round, updates } => {
                json!({"event": "included", "round": round, "updates": updates})
            }
            Event::Abandoned { round, reason } => {
                json!({"event": "abandoned", "round": round, "reason": reason.to_string()})
            }
        };
        println!("{line}");
        Control::Continue
    })
}

/// A progress bar where someone watches, a line a round where nobody does.
pub(super) fn bar() -> Watch {
    let shown = std::io::stderr().is_terminal();
    let bar = if shown { ProgressBar::new(1) } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template("{prefix:12} {bar:30} {pos}/{len} {msg}") {
        bar.set_style(style);
    }
    Arc::new(move |event| {
        match event {
            Event::Waiting { reason, .. } => bar.set_message(format!("waiting: {reason}")),
            Event::Paused { need, .. } => bar.set_message(format!("paused: {need}")),
            Event::Assigned { round, .. } => bar.set_prefix(format!("round {round}")),
            Event::Training(progress) => {
                bar.set_length(u64::from(progress.steps));
                bar.set_position(u64::from(progress.step));
                bar.set_message(format!("loss {:.3}", progress.loss));
            }
            Event::Delivered(contribution) => {
                let line = format!(
                    "round {}: loss {:.3}, {} bytes sent",
                    contribution.receipt.round, contribution.loss, contribution.update_bytes
                );
                if shown { bar.println(line) } else { println!("{line}") }
            }
            Event::Abandoned { round, reason } => {
                let line = format!("round {round} abandoned: {reason}");
                if shown { bar.println(line) } else { println!("{line}") }
            }
            _ => {}
        }
        Control::Continue
    })
}
