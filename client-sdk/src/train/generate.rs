//! Text from a model, always the likeliest token. Keys and values of the tokens before are kept, so each new
//! one takes a single row through the model.

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
    let (mut tape, mut logits) = (Tape::going_on(), Vec::new());
    let mut met = 0;
    for _ in 0..max_tokens.min(context - tokens.len()) {
        let inputs = tokens[met..].to_vec();
        let (targets, cols) = (vec![IGNORE; inputs.len()], inputs.len());
        let batch = Batch { inputs, targets, lengths: vec![], rows: 1, cols };
        let hidden = decoder.features(&mut tape, &batch, None);
        decoder.logits(&mut logits, &hidden[(cols - 1) * base.hidden()..]);
        met = tokens.len();
        let next = likeliest(&logits);
        if base.eos().contains(&next) {
            break;
        }
        tokens.push(next);
    }
    Ok(base.decode(&tokens)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: [&[u8]; 2] = [
        include_bytes!("../../tests/golden/llama.gguf"),
        include_bytes!("../../tests/golden/gpt2.gguf"),
    ];

    /// A text in pieces of any length has the features of the whole, bit for bit.
    #[test]
    fn pieces_have_the_bits_of_the_whole() {
        for file in FILES {
            let base = BaseModel::from_gguf_bytes(file, None).expect("loads");
            let decoder = base.decoder(None).expect("a decoder");
            let vocab = base.limits(None).vocab;
            let tokens: Vec<u32> =
                (0..base.context().min(80)).map(|i| ((7 * i + 3) % vocab) as u32).collect();
            let batch = |tokens: &[u32]| {
                let (inputs, cols) = (tokens.to_vec(), tokens.len());
                Batch { inputs, targets: vec![IGNORE; cols], lengths: vec![], rows: 1, cols }
            };
            let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
            let whole = bits(decoder.features(&mut Tape::one_way(), &batch(&tokens), None));
            assert!(tokens.len() > 32, "one block of queries");
            for piece in [1, 3, 33] {
                let mut tape = Tape::going_on();
                let pieces = tokens
                    .chunks(piece)
                    .flat_map(|tokens| bits(decoder.features(&mut tape, &batch(tokens), None)));
                assert_eq!(pieces.collect::<Vec<u32>>(), whole, "{piece} at a time");
            }
        }
    }
}
