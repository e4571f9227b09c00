//! Text from a model, always the likeliest token.

use gossamer_protocol::manifest::Manifest;

use super::{TrainError, check, likeliest};
use crate::data::{Batch, IGNORE};
use crate::model::BaseModel;
use crate::model::network::Tape;

/// `prompt` and what follows it: at most `max_tokens` tokens, to an ending token or the context's end.
///
/// # Errors
/// [`TrainError`] where the adapter does not fit the base, the prompt fills its context, or the base is
/// an encoder.
pub fn generate(
    base: &BaseModel,
    adapter: Option<(&Manifest, &[f32])>,
    prompt: &str,
    max_tokens: usize,
) -> Result<String, TrainError> {
    let lora = adapter.map(|(manifest, _)| check(base, manifest)).transpose()?;
    let adapter = match (&lora, adapter) {
        (Some(lora), Some((_, theta))) => Some(lora.adapter(theta)?),
        _ => None,
    };
    let decoder = base.decoder(adapter).ok_or(TrainError::Encoder)?;
    let context = base.context();
    let mut tokens: Vec<u32> = base.bos().into_iter().collect();
    tokens.extend(base.encode(prompt)?);
    if tokens.is_empty() || tokens.len() >= context {
        return Err(TrainError::Prompt { expected: context, found: tokens.len() });
    }
    let (mut tape, mut logits) = (Tape::one_way(), Vec::new());
    for _ in 0..max_tokens.min(context - tokens.len()) {
        let cols = tokens.len();
        let targets = vec![IGNORE; cols];
        let batch = Batch { inputs: tokens, targets, lengths: vec![], rows: 1, cols };
        let hidden = decoder.features(&mut tape, &batch, None);
        decoder.logits(&mut logits, &hidden[(cols - 1) * base.hidden()..]);
        tokens = batch.inputs;
        let next = likeliest(&logits);
        if base.eos().contains(&next) {
            break;
        }
        tokens.push(next);
    }
    Ok(base.decode(&tokens)?)
}
