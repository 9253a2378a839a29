//! Compression with contexts that are kept per thread: making one costs more than using it.

use std::cell::RefCell;
use std::io;

use zstd::bulk::{Compressor, Decompressor};

thread_local! {
    static COMPRESSOR: RefCell<Option<(i32, Compressor<'static>)>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// `plain` as one zstd frame.
pub(super) fn compress(plain: &[u8], level: i32) -> io::Result<Vec<u8>> {
    COMPRESSOR.with_borrow_mut(|kept| {
        if kept.as_ref().is_none_or(|(of, _)| *of != level) {
            *kept = Some((level, Compressor::new(level)?));
        }
        match kept {
            Some((_, compressor)) => compressor.compress(plain),
            None => Err(io::ErrorKind::OutOfMemory.into()),
        }
    })
}

/// The content of a zstd frame, which must be exactly `size` bytes. Never writes more than that.
pub(super) fn decompress(packed: &[u8], size: usize) -> io::Result<Vec<u8>> {
    DECOMPRESSOR.with_borrow_mut(|kept| {
        if kept.is_none() {
            *kept = Some(Decompressor::new()?);
        }
        let Some(decompressor) = kept else { return Err(io::ErrorKind::OutOfMemory.into()) };
        let mut plain = Vec::new();
        // A declared size that cannot be had is an error, not the end of the program.
        plain.try_reserve_exact(size).map_err(|_| io::ErrorKind::OutOfMemory)?;
        decompressor.decompress_to_buffer(packed, &mut plain)?;
        if plain.len() == size { Ok(plain) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    })
}
