//! Adapters beside frozen linears: one client's, or several clients', each on its own rows.
//!
//! The clients' rows lie one client after the other, equally many of each. A client's gradients are added
//! to its part of one vector `[clients, n]`.

use super::{Adapter, Factor, HeadPlan, Pair, Plan, Values, WeightPlan};
use crate::ops::linear::{Dropout, Gradients, Linear, Lora, Saved, Share};
use crate::ops::matrix::Matrix;
use crate::ops::product::Store;

impl<'a> Adapter<'a> {
    pub(crate) fn plan(self) -> &'a Plan {
        self.plan
    }

    fn clients(self) -> usize {
        match self.values {
            Values::One(_) => 1,
            Values::Each(thetas) => thetas.len(),
        }
    }

    /// Each client's share of the rows, and of the gradients.
    pub(crate) fn shares(self) -> impl Iterator<Item = Share> {
        let of = self.clients();
        (0..of).map(move |at| Share { at, of })
    }

    fn theta(self, at: usize) -> &'a [f32] {
        match self.values {
            Values::One(theta) => theta,
            Values::Each(thetas) => thetas[at],
        }
    }

    /// A client's task head, where the run has one.
    pub(crate) fn head(self, client: usize) -> Option<Linear<'a>> {
        let HeadPlan { hidden, classes, weight, bias } = self.plan.head.as_ref()?;
        let theta = self.theta(client);
        Some(Linear {
            d_in: *hidden,
            d_out: *classes,
            weight: Matrix::new(&theta[weight.clone()], *hidden),
            bias: Some(&theta[bias.clone()]),
        })
    }

    /// A client's branch of a linear.
    fn branch(self, pair: &'a Pair, client: usize) -> Lora<'a> {
        let theta = self.theta(client);
        let a = match &pair.a {
            Factor::Trained(a) => &theta[a.clone()],
            Factor::Frozen(a) => &self.plan.frozen[a.clone()],
        };
        let core = pair.core.clone().map(|core| &theta[core]);
        Lora { rank: pair.rank, scale: pair.scale, a, b: &theta[pair.b.clone()], core }
    }

    /// The first client's branch of linear `at`, where it has one.
    pub(crate) fn branch_at(self, at: usize) -> Option<Lora<'a>> {
        Some(self.branch(self.plan.pairs[at].as_ref()?, 0))
    }

    /// A client's change of a whole weight.
    fn weight(self, plan: &WeightPlan, client: usize) -> Linear<'a> {
        let WeightPlan { d_in, d_out, .. } = *plan;
        let values = &self.theta(client)[plan.place.clone()];
        Linear { d_in, d_out, weight: Matrix::new(values, d_in), bias: None }
    }

    /// Adds what linear `at`'s changed weights and branches give to `out`; see [`Lora::forward`].
    pub(crate) fn forward(
        self,
        at: usize,
        out: &mut [f32],
        x: &[f32],
        saved: &mut Saved,
        mut dropout: Option<&mut Dropout>,
    ) {
        if let Some(plan) = &self.plan.weights[at] {
            for share in self.shares() {
                let weight = self.weight(plan, share.at);
                weight.forward(share.part_mut(out), Store::Add, share.part(x));
            }
        }
        let Some(pair) = &self.plan.pairs[at] else { return };
        for share in self.shares() {
            let branch = self.branch(pair, share.at);
            branch.forward(out, x, saved, share, dropout.as_deref_mut());
        }
    }

    /// Adds to `dx` and to the clients' `gradients`; see [`Lora::backward`].
    #[expect(clippy::too_many_arguments, reason = "what a linear's backward pass takes")]
    pub(crate) fn backward(
        self,
        at: usize,
        mut dx: Option<&mut [f32]>,
        mut gradients: Option<&mut [f32]>,
        dy: &[f32],
        x: &[f32],
        saved: &Saved,
        scratch: &mut Vec<f32>,
    ) {
        if let Some(plan) = &self.plan.weights[at] {
            for share in self.shares() {
                let gradient = gradients.as_deref_mut().filter(|_| plan.trained);
                let gradient = gradient.map(|all| &mut share.part_mut(all)[plan.place.clone()]);
                let parts = Gradients { weight: gradient, bias: None };
                let dx = dx.as_deref_mut().map(|dx| (share.part_mut(dx), Store::Add));
                let weight = self.weight(plan, share.at);
                weight.backward(dx, parts, share.part(dy), share.part(x));
            }
        }
        let Some(pair) = &self.plan.pairs[at] else { return };
        for share in self.shares() {
            let gradient = gradients.as_deref_mut().map(|all| share.part_mut(all));
            let parts = gradient.map(|gradient| self.plan.split(at, gradient)).unwrap_or_default();
            let branch = self.branch(pair, share.at);
            branch.backward(dx.as_deref_mut(), parts, dy, x, saved, share, scratch);
        }
    }
}
