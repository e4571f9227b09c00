//! Which family a model is of, with its sizes and the places of its tensors.

use super::ModelError;
use super::bert::{Bert, BertConfig, BertMap};
use super::config::{architecture, unsupported};
use super::frozen::Frozen;
use super::gpt2::{Gpt2, Gpt2Config, Gpt2Map};
use super::llama::{Llama, LlamaConfig, LlamaMap};
use super::network::{Body, Head, Network};
use super::tensors::Tensors;
use crate::lora::Adapter;

/// Sizes, and where each tensor lies.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Llama(LlamaConfig, LlamaMap),
    Gpt2(Gpt2Config, Gpt2Map),
    Bert(BertConfig, BertMap),
}

impl Kind {
    /// By `config.json`'s `architectures`.
    pub(super) fn from_json(config: &[u8]) -> Result<Self, ModelError> {
        match architecture(config)?.as_str() {
            name if LlamaConfig::ARCHITECTURES.contains(&name) => {
                let config = LlamaConfig::from_json(config)?;
                let map = LlamaMap::new(&config);
                Ok(Self::Llama(config, map))
            }
            Gpt2Config::ARCHITECTURE => {
                let config = Gpt2Config::from_json(config)?;
                let map = Gpt2Map::new(&config);
                Ok(Self::Gpt2(config, map))
            }
            name if BertConfig::ARCHITECTURES.contains(&name) => {
                let config = BertConfig::from_json(config)?;
                let map = BertMap::new(&config);
                Ok(Self::Bert(config, map))
            }
            other => {
                let known = "LlamaForCausalLM, Qwen2ForCausalLM, GPT2LMHeadModel, BertModel or \
                             BertForSequenceClassification";
                Err(unsupported("architectures", other.to_owned(), known))
            }
        }
    }

    pub(super) fn tensors(&self) -> &Tensors {
        match self {
            Self::Llama(_, map) => &map.tensors,
            Self::Gpt2(_, map) => &map.tensors,
            Self::Bert(_, map) => &map.tensors,
        }
    }

    pub(super) fn vocab(&self) -> usize {
        match self {
            Self::Llama(config, _) => config.vocab,
            Self::Gpt2(config, _) => config.vocab,
            Self::Bert(config, _) => config.vocab,
        }
    }

    pub(super) fn hidden(&self) -> usize {
        match self {
            Self::Llama(config, _) => config.hidden,
            Self::Gpt2(config, _) => config.hidden,
            Self::Bert(config, _) => config.hidden,
        }
    }

    pub(super) fn context(&self) -> usize {
        match self {
            Self::Llama(config, _) => config.context,
            Self::Gpt2(config, _) => config.context,
            Self::Bert(config, _) => config.context,
        }
    }

    pub(super) fn bos(&self) -> Option<u32> {
        match self {
            Self::Llama(config, _) => config.bos,
            Self::Gpt2(config, _) => config.bos,
            Self::Bert(..) => None,
        }
    }

    pub(super) fn eos(&self) -> &[u32] {
        match self {
            Self::Llama(config, _) => &config.eos,
            Self::Gpt2(config, _) => &config.eos,
            Self::Bert(..) => &[],
        }
    }

    /// Tokens that the file itself names.
    pub(super) fn named_tokens(&self) -> Vec<u32> {
        let pad = self.bert().map(|config| config.pad);
        self.bos().into_iter().chain(self.eos().iter().copied()).chain(pad).collect()
    }

    pub(crate) fn llama(&self) -> Option<&LlamaConfig> {
        match self {
            Self::Llama(config, _) => Some(config),
            _ => None,
        }
    }

    pub(super) fn gpt2(&self) -> Option<&Gpt2Config> {
        match self {
            Self::Gpt2(config, _) => Some(config),
            _ => None,
        }
    }

    pub(super) fn bert(&self) -> Option<&BertConfig> {
        match self {
            Self::Bert(config, _) => Some(config),
            _ => None,
        }
    }

    /// A decoder, to the logits of next tokens.
    pub(super) fn decoder<'a>(&'a self, frozen: Frozen<'a>) -> Option<Network<'a>> {
        match self {
            Self::Llama(config, map) => {
                let body = Body::Llama(Llama { config, map, frozen });
                Some(Network { body, head: Head::Tokens(&map.head) })
            }
            Self::Gpt2(config, map) => {
                let body = Body::Gpt2(Gpt2 { config, map, frozen });
                Some(Network { body, head: Head::Tokens(&map.head) })
            }
            Self::Bert(..) => None,
        }
    }

    /// An encoder, to the logits of classes.
    pub(super) fn encoder<'a>(
        &'a self,
        frozen: Frozen<'a>,
        adapter: Adapter<'a>,
    ) -> Option<Network<'a>> {
        match self {
            Self::Llama(..) | Self::Gpt2(..) => None,
            Self::Bert(config, map) => {
                let body = Body::Bert(Bert { config, map, frozen });
                Some(Network { body, head: Head::Classes(adapter) })
            }
        }
    }
}
