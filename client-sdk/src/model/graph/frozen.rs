//! The product with a weight that is not trained.
//!
//! candle's own product always forms both operands' gradients: with a frozen weight a third of a step's work,
//! and the memory of every weight's gradient.

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp2, Layout, MetalStorage, Result, Shape, Tensor,
};

/// `y = x V`, `x`: `[n, d_in]`, `V`: `[d_in, d_out]`; backward `dx = dy V^T`, and nothing for `V`.
pub(super) struct Product;

impl CustomOp2 for Product {
    fn name(&self) -> &'static str {
        "product with a frozen weight"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        of_x: &Layout,
        v: &CpuStorage,
        of_v: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        multiply(x, of_x, v, of_v)
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        of_x: &Layout,
        v: &CudaStorage,
        of_v: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        multiply(x, of_x, v, of_v)
    }

    fn metal_fwd(
        &self,
        x: &MetalStorage,
        of_x: &Layout,
        v: &MetalStorage,
        of_v: &Layout,
    ) -> Result<(MetalStorage, Shape)> {
        multiply(x, of_x, v, of_v)
    }

    fn bwd(
        &self,
        _: &Tensor,
        v: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some(dy.matmul(&v.t()?)?), None))
    }
}

/// Of any backend: one text for all, so what a build without a GPU checks is what runs on one.
fn multiply<S: BackendStorage>(x: &S, of_x: &Layout, v: &S, of_v: &Layout) -> Result<(S, Shape)> {
    let ((n, k), (_, m)) = (of_x.shape().dims2()?, of_v.shape().dims2()?);
    Ok((x.matmul(v, (1, n, m, k), of_x, of_v)?, Shape::from((n, m))))
}
