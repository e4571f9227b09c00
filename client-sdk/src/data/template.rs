//! How an instruction becomes the text that a model is given before its answer.

use super::Instruction;

const INSTRUCTION: &str = "{instruction}";
const INPUT: &str = "{input}";

/// A text without the places that must be in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the template {text:?} has {found} of {place}, it must have {expected}")]
pub struct BadTemplate {
    /// The template.
    pub text: String,
    /// The place.
    pub place: &'static str,
    /// How often it must be there.
    pub expected: usize,
    /// How often it is.
    pub found: usize,
}

/// Two texts with the places `{instruction}` and, in the first alone, `{input}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    with_input: String,
    without: String,
}

impl Template {
    /// `with_input`: for an instruction with an input; `without`: for one without.
    ///
    /// # Errors
    /// [`BadTemplate`] where a place is not there exactly once, or `{input}` is in the second.
    pub fn new(
        with_input: impl Into<String>,
        without: impl Into<String>,
    ) -> Result<Self, BadTemplate> {
        let (with_input, without) = (with_input.into(), without.into());
        for (text, place, expected) in [
            (&with_input, INSTRUCTION, 1),
            (&with_input, INPUT, 1),
            (&without, INSTRUCTION, 1),
            (&without, INPUT, 0),
        ] {
            let found = text.matches(place).count();
            if found != expected {
                return Err(BadTemplate { text: text.clone(), place, expected, found });
            }
        }
        Ok(Self { with_input, without })
    }

    /// Stanford Alpaca's `PROMPT_DICT`, tatsu-lab/stanford_alpaca `train.py`.
    #[must_use]
    pub fn alpaca() -> Self {
        let head = "Below is an instruction that describes a task";
        let ask = "Write a response that appropriately completes the request.";
        Self {
            with_input: format!(
                "{head}, paired with an input that provides further context. {ask}\n\n\
                 ### Instruction:\n{INSTRUCTION}\n\n### Input:\n{INPUT}\n\n### Response:"
            ),
            without: format!("{head}. {ask}\n\n### Instruction:\n{INSTRUCTION}\n\n### Response:"),
        }
    }

    /// One turn of ChatML, whose tokens the model's tokenizer must have; SmolLM2-Instruct's and Qwen2's
    /// template without a system's turn.
    #[must_use]
    pub fn chatml() -> Self {
        let turn =
            |text: &str| format!("<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n");
        let both = format!("{INSTRUCTION}\n\n{INPUT}");
        Self { with_input: turn(&both), without: turn(INSTRUCTION) }
    }

    /// The text before the answer. What looks like a place in the app's own texts is left alone.
    #[must_use]
    pub fn prompt(&self, of: &Instruction) -> String {
        if of.input.trim().is_empty() {
            let (before, after) = split(&self.without, INSTRUCTION);
            return [before, of.instruction.trim(), after].concat();
        }
        let text = &self.with_input;
        let (instruction, input) = (of.instruction.trim(), of.input.trim());
        // The places may stand in either order.
        let first = if text.find(INSTRUCTION) < text.find(INPUT) { INSTRUCTION } else { INPUT };
        let (second, filled) = match first {
            INSTRUCTION => (INPUT, [instruction, input]),
            _ => (INSTRUCTION, [input, instruction]),
        };
        let (before, rest) = split(text, first);
        let (between, after) = split(rest, second);
        [before, filled[0], between, filled[1], after].concat()
    }
}

impl Default for Template {
    /// [`Template::alpaca`].
    fn default() -> Self {
        Self::alpaca()
    }
}

/// A template has its places, so there is always something to split at.
fn split<'t>(text: &'t str, place: &str) -> (&'t str, &'t str) {
    text.split_once(place).unwrap_or((text, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(instruction: &str, input: &str) -> Instruction {
        let text = str::to_owned;
        Instruction { instruction: text(instruction), input: text(input), output: text("x") }
    }

    #[test]
    fn places_are_filled_once() {
        let template = Template::new("{input} < {instruction}!", "{instruction}?").expect("sound");
        assert_eq!(template.prompt(&of(" a\n", "b")), "b < a!");
        assert_eq!(template.prompt(&of("a", " ")), "a?");
        assert_eq!(template.prompt(&of("{input}", "{instruction}")), "{instruction} < {input}!");
        assert_eq!(template.prompt(&of("{instruction} {input}", "")), "{instruction} {input}?");
    }

    /// As the two projects print them.
    #[test]
    fn known_templates() {
        let alpaca = Template::alpaca();
        assert_eq!(
            alpaca.prompt(&of("Add.", "1 2")),
            "Below is an instruction that describes a task, paired with an input that provides \
             further context. Write a response that appropriately completes the request.\n\n### \
             Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:"
        );
        assert_eq!(
            alpaca.prompt(&of("Add.", "")),
            "Below is an instruction that describes a task. Write a response that appropriately \
             completes the request.\n\n### Instruction:\nAdd.\n\n### Response:"
        );
        assert_eq!(
            Template::chatml().prompt(&of("Add.", "1 2")),
            "<|im_start|>user\nAdd.\n\n1 2<|im_end|>\n<|im_start|>assistant\n"
        );
    }

    #[test]
    fn what_lacks_a_place_is_refused() {
        let bad = Template::new("{instruction}", "{instruction}").expect_err("no input");
        assert_eq!((bad.place, bad.expected, bad.found), ("{input}", 1, 0));
        let bad = Template::new("{instruction}{input}", "{instruction}{input}").expect_err("input");
        assert_eq!((bad.place, bad.expected, bad.found), ("{input}", 0, 1));
        let twice = Template::new("{instruction}{input}", "{instruction}{instruction}");
        assert_eq!(twice.expect_err("twice").found, 2);
        for template in [Template::alpaca(), Template::chatml()] {
            assert_eq!(Template::new(&template.with_input, &template.without), Ok(template));
        }
    }
}
