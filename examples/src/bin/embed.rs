//! An app that fine-tunes in the background: `embed URL TOKEN MODEL_DIR TEXT_DIR STATE_DIR`.
//!
//! It works while the phone charges, on a free network, at night; it shows how far it is, ends when the
//! user says so, and goes on where it was when the system killed it.

use std::env::var_os;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gossamer_client::client::gate::{All, Condition, Gate, Window};
use gossamer_client::client::{Client, Event, Saving};
use gossamer_client::data::{TextDataset, TrainingTask};
use gossamer_client::model::BaseModel;
use gossamer_client::train::Control;

/// Set by the app's button.
static CANCELLED: AtomicBool = AtomicBool::new(false);

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [url, token, model, text, state] = &args[..] else {
        anyhow::bail!("embed URL TOKEN MODEL_DIR TEXT_DIR STATE_DIR");
    };
    let base = BaseModel::load(Path::new(model))?;
    let task = Arc::new(TextDataset::open(&base, Path::new(text))?) as Arc<dyn TrainingTask>;
    let mut gates: Vec<Box<dyn Gate>> = vec![
        // An app asks its system; this one its environment.
        Box::new(Condition::charging(|| var_os("ON_BATTERY").is_none())),
        Box::new(Condition::unmetered(|| var_os("METERED").is_none())),
    ];
    if var_os("AT_NIGHT").is_some() {
        gates.push(Box::new(Window::new(22 * 60, 6 * 60, 120)?));
    }
    let client = Client::builder(url)
        .token(token)
        .state_dir(state)
        .base(base)
        .gate(Arc::new(All::of(gates)))
        .saving(Saving::Every(Duration::from_secs(30)))
        .memory_max(1 << 30)
        .watch(Arc::new(|event| {
            match event {
                Event::Training(at) => println!("{} of {}, loss {:.3}", at.step, at.steps, at.loss),
                Event::Paused { need, .. } => println!("paused: {need}"),
                Event::Abandoned { reason, .. } => println!("a round is lost: {reason}"),
                _ => {}
            }
            if CANCELLED.load(Ordering::Relaxed) { Control::Stop } else { Control::Continue }
        }))
        .connect()
        .await?;
    println!("{} updates delivered", client.run(&task).await?);
    Ok(())
}
