//! Bodies of replies, never longer than what their reader is ready to hold.

use reqwest::Response;

/// Why a body was not had.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// It goes on after so many bytes.
    #[error("a reply of over {0} bytes")]
    TooLong(usize),
    /// It broke off. Its words may name the URL.
    #[error(transparent)]
    Broken(reqwest::Error),
}

/// All of a body that is at most `most` bytes long.
///
/// # Errors
/// [`BodyError`].
pub async fn whole(mut reply: Response, most: usize) -> Result<Vec<u8>, BodyError> {
    let told = reply.content_length().and_then(|length| usize::try_from(length).ok());
    let mut body = Vec::with_capacity(told.unwrap_or(0).min(most));
    while let Some(chunk) = reply.chunk().await.map_err(BodyError::Broken)? {
        if body.len() + chunk.len() > most {
            return Err(BodyError::TooLong(most));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
