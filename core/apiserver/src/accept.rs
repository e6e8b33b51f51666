//! What form of answer a client wants.

use http::{HeaderMap, header};

use crate::status::{ApiError, Result};

/// A form of answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The object.
    Json,
    /// Rows for people.
    Table,
    /// Its metadata only.
    Metadata,
}

/// The first form in the client's order that we have.
pub fn form(headers: &HeaderMap) -> Result<Form> {
    let mut any = false;
    for value in headers.get_all(header::ACCEPT) {
        for item in value.to_str().unwrap_or("").split(',').take(32) {
            any = true;
            let mut parts = item.split(';').map(str::trim);
            let media = parts.next().unwrap_or("");
            if !matches!(media, "application/json" | "*/*" | "application/*" | "") {
                continue;
            }
            match parts.find_map(|part| part.strip_prefix("as=")) {
                None => return Ok(Form::Json),
                Some("Table") => return Ok(Form::Table),
                Some("PartialObjectMetadata" | "PartialObjectMetadataList") => return Ok(Form::Metadata),
                Some(_) => {}
            }
        }
    }
    if any { Err(ApiError::not_acceptable("application/json")) } else { Ok(Form::Json) }
}
