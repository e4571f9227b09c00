//! An app's own `TrainingTask`: messages and the user's replies, of which the replies alone are learned, the
//! latest most: `replies URL TOKEN MODEL_DIR FILE STATE_DIR`; a line of the file is `MESSAGE<tab>REPLY`.
//!
//! (For instructions in the usual files there is `data::InstructionDataset`.)

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use gossamer_client::client::Client;
use gossamer_client::data::{Batch, IGNORE, Plan, TaskError, TrainingTask};
use gossamer_client::model::BaseModel;

/// A message and its reply as the model sees them.
struct Exchange {
    tokens: Vec<u32>,
    /// Tokens of the message, with what stands before it.
    prompt: usize,
}

/// All exchanges, the latest last.
struct Replies(Vec<Exchange>);

impl Replies {
    fn read(base: &BaseModel, text: &str) -> anyhow::Result<Self> {
        let mut exchanges = Vec::new();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let (message, reply) = line.split_once('\t').context("a line has no tab")?;
            let mut tokens: Vec<u32> = base.bos().into_iter().collect();
            tokens.extend(base.encode(&format!("They: {message}\nI:"))?);
            let prompt = tokens.len();
            tokens.extend(base.encode(&format!(" {}", reply.trim()))?);
            tokens.extend(base.eos().first());
            exchanges.push(Exchange { tokens, prompt });
        }
        Ok(Self(exchanges))
    }
}

impl TrainingTask for Replies {
    fn examples(&self) -> usize {
        self.0.len()
    }

    /// Drawn from the plan's stream alone, so that a training that was cut off goes on to the same bytes.
    fn batch(&self, plan: &Plan, step: u32) -> Result<Batch, TaskError> {
        let usable: Vec<&Exchange> = self.0.iter().filter(|e| e.prompt <= plan.cols).collect();
        if usable.is_empty() {
            return Err(TaskError::Other("every message is longer than the run's context".into()));
        }
        let mut rng = plan.stream("replies", u64::from(step));
        let picked: Vec<&Exchange> = (0..plan.rows)
            .map(|_| {
                // The later of two draws: the latest exchange comes twice as often as the average.
                let [a, b] = [0; 2].map(|_| rng.below(usable.len() as u64) as usize);
                usable[a.max(b)]
            })
            .collect();
        let width = |e: &&Exchange| (e.tokens.len() - 1).min(plan.cols);
        let cols = picked.iter().map(width).max().unwrap_or(0);
        let mut batch = Batch { rows: picked.len(), cols, ..Batch::default() };
        for exchange in &picked {
            let width = width(exchange);
            batch.inputs.extend(&exchange.tokens[..width]);
            for at in 1..=width {
                let learned = at >= exchange.prompt;
                batch.targets.push(if learned { exchange.tokens[at] } else { IGNORE });
            }
            // Padding behind a text changes nothing before it.
            batch.inputs.extend(std::iter::repeat_n(0, cols - width));
            batch.targets.extend(std::iter::repeat_n(IGNORE, cols - width));
        }
        Ok(batch)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [url, token, model, file, state] = &args[..] else {
        anyhow::bail!("replies URL TOKEN MODEL_DIR FILE STATE_DIR");
    };
    let base = BaseModel::load(Path::new(model))?;
    let task = Replies::read(&base, &std::fs::read_to_string(file)?)?;
    let task = Arc::new(task) as Arc<dyn TrainingTask>;
    let builder = Client::builder(url).token(token).state_dir(state).base(base);
    let client = builder.connect().await?;
    println!("{} updates delivered", client.run(&task).await?);
    Ok(())
}
