//! What the aggregator makes of a linear's factors, `B_k` and `A_k` of client `k`.

use serde::{Deserialize, Serialize};

use crate::layout::{Layout, LayoutError, Pair, Part, TensorSpec, pairs};

use super::{Average, Coverage, Manifest, ManifestError, Method, ServerOptimizer};

/// Most clients that are asked where the aggregator combines products: it holds all their updates at once.
pub const PRODUCTS_MAX: u32 = 1 << 10;

/// What the aggregator makes of a linear's factors. `w_k` is client `k`'s share of the average.
///
/// All but [`Mean`](Self::Mean) look at each client's factors as a whole, so the new adapter is a function of
/// the set of accepted updates, but no sum of it; it takes the place of the old one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Combine {
    /// `A = sum w_k A_k`, `B = sum w_k B_k`, entry by entry, for the optimiser to step to.
    #[default]
    Mean,
    /// As the mean of whole factors, what a smaller rank lacks being 0, with
    /// `w_k = ||B_k A_k||_F / sum_j ||B_j A_j||_F` of each linear. Source: HetLoRA, arXiv:2401.06432.
    Norms,
    /// The `r` largest components of `sum w_k B_k A_k` by singular values: `A` has rows of length 1, `B` the
    /// values. Source: FlexLoRA, arXiv:2402.11505.
    Svd,
    /// The means, and on B `dB` with the least `||sum w_k B_k A_k - (B + dB) A||_F^2 + lambda ||dB||_F^2`.
    /// Source: LoRA-FAIR, arXiv:2411.14961, which leaves the distance open.
    Refit(f64),
    /// `sum w_k B_k A_k`, exactly, is added to the weight, and the factors start anew: `A` at the run's seeded
    /// start, `B` at 0. Source: FLoRA, arXiv:2409.05976, whose stacked factors have this product.
    Stack,
    /// The means, and what they lack, `sum w_k B_k A_k - B A`, is added to the weight. Source: FedEx-LoRA,
    /// arXiv:2410.09432.
    Residual,
    /// A core R, `[r, r]`, between B and A, which alone is trained from the third round on and averaged, so that
    /// the mean of products is the product of the mean. Source: Fed-SB, arXiv:2502.15436.
    ///
    /// Where the published starts from a gradient of the whole weight, the first two rounds find its largest
    /// components as the randomised range finder does (Halko, Martinsson and Tropp, arXiv:0909.4061): of a B that
    /// starts at 0 the step is the gradient times the seeded A, whose columns, made orthonormal, are the next B;
    /// of an A that then starts at 0 it is that B times the gradient. B, R and A become the singular vectors and
    /// values of this product.
    Core,
}

impl Combine {
    /// Whether it looks at products of factors.
    #[must_use]
    pub fn is_of_products(self) -> bool {
        self != Self::Mean
    }

    /// Whether it changes the weights behind the factors, which then are in the layout.
    #[must_use]
    pub fn changes_weights(self) -> bool {
        matches!(self, Self::Stack | Self::Residual)
    }

    /// `layout` with what it needs behind each B.
    pub(super) fn complete(self, layout: Layout) -> Result<Layout, LayoutError> {
        match self {
            Self::Stack | Self::Residual => layout.with_weights(),
            Self::Core => layout.with_cores(),
            Self::Mean | Self::Norms | Self::Svd | Self::Refit(_) => Ok(layout),
        }
    }

    pub(super) fn check(
        self,
        method: &Method,
        field: impl Fn(bool, &'static str, &'static str) -> Result<(), ManifestError>,
    ) -> Result<(), ManifestError> {
        if let Self::Refit(lambda) = self {
            field(lambda.is_finite() && lambda > 0.0, "method.combine", "a positive refit")?;
        }
        if !self.is_of_products() {
            return Ok(());
        }
        let whole = method.average != Average::Contributors;
        field(whole, "method.average", "\"cohort\" or \"examples\" where factors are combined")?;
        let both = method.alternate.is_none() && method.train == Coverage::Dense;
        field(both, "method.combine", "\"mean\" where not both factors are trained whole")?;
        let whole = self != Self::Core || method.tiers.iter().all(|tier| tier.rank.is_none());
        field(whole, "method.tiers", "without ranks where a core is trained")
    }

    /// What else of `manifest` it needs.
    pub(super) fn check_run(
        self,
        manifest: &Manifest,
        field: impl Fn(bool, &'static str, &'static str) -> Result<(), ManifestError>,
    ) -> Result<(), ManifestError> {
        let factors = |part| matches!(part, Part::LoraA | Part::LoraB);
        let lone: Vec<TensorSpec> = manifest.layout.clone().into();
        let behind = |tensor: &TensorSpec| matches!(tensor.part, Part::Weight | Part::LoraR);
        let lone = lone.into_iter().filter(|tensor| !behind(tensor)).collect();
        let complete = Layout::new(lone).and_then(|layout| self.complete(layout));
        let whole = manifest.layout.tensors().any(|(tensor, _)| tensor.part == Part::Weight);
        field(manifest.version > 1 || !whole, "layout", "without whole weights in version 1")?;
        let factors = manifest.layout.tensors().any(|(tensor, _)| factors(tensor.part));
        // A layout of weights alone is full fine-tuning's.
        let alone = whole && !factors && !self.changes_weights();
        let fits = alone || complete.as_ref() == Ok(&manifest.layout);
        let why =
            "behind each B a weight's change or a core where \"combine\" has one, and else none";
        field(fits, "layout", why)?;
        if !self.is_of_products() {
            return Ok(());
        }
        let seeded = self != Self::Core || manifest.start.is_none();
        field(seeded, "start", "absent where a core is trained, whose first rounds begin anew")?;
        let plain = ServerOptimizer::Sgd { lr: 1.0, momentum: 0.0 };
        let why = "{\"kind\":\"sgd\",\"lr\":1} where factors are combined";
        field(manifest.optimizer == plain, "optimizer", why)?;
        let few = manifest.cohort.ask <= PRODUCTS_MAX;
        field(few, "cohort.ask", "at most 1,024 where factors are combined")?;
        let whole = |pair: &Pair| !pair.a.is_empty() && pair.a.len() == pair.rank * pair.d_in;
        let both = !manifest.lora.freeze_a && pairs(&manifest.layout).iter().all(whole);
        field(both, "method.combine", "\"mean\" where not every B has its A before it")
    }
}
