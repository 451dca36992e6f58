//! F32, F16 and BF16: decoding only; they always meet f32 activations.

pub mod scalar {
    use forebay_format::QuantType;

    pub fn f32(row: &[u8], out: &mut [f32]) {
        QuantType::F32.decode_row(row, out);
    }

    pub fn f16(row: &[u8], out: &mut [f32]) {
        QuantType::F16.decode_row(row, out);
    }

    pub fn bf16(row: &[u8], out: &mut [f32]) {
        QuantType::BF16.decode_row(row, out);
    }
}
