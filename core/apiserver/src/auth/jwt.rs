//! Service accounts' tokens: JSON Web Tokens signed with ES256, and nothing else.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use serde::{Deserialize, Deserializer, Serialize};

/// Signs and verifies.
pub struct Signer {
    key: EcdsaKeyPair,
    id: String,
    random: SystemRandom,
}

/// What a token says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Claims {
    #[serde(deserialize_with = "one_or_many")]
    pub aud: Vec<String>,
    pub exp: i64,
    pub iat: i64,
    pub iss: String,
    #[serde(default)]
    pub jti: String,
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: About,
    #[serde(default)]
    pub nbf: i64,
    pub sub: String,
}

/// What a token was made for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct About {
    pub namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Reference>,
    pub serviceaccount: Reference,
}

/// An object, by name and uid.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reference {
    pub name: String,
    pub uid: String,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: String,
}

// === impl Signer ===

impl Signer {
    /// From a P-256 key, PKCS#8 in PEM.
    pub fn new(pem: &str) -> Result<Self, String> {
        use rustls::pki_types::PrivatePkcs8KeyDer;
        use rustls::pki_types::pem::PemObject;
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|error| format!("sa.key: {error}"))?;
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_pkcs8_der(), &random)
            .map_err(|error| format!("sa.key: {error}"))?;
        let digest = ring::digest::digest(&ring::digest::SHA256, key.public_key().as_ref());
        let id = BASE64_URL_SAFE_NO_PAD.encode(&digest.as_ref()[..16]);
        Ok(Self { key, id, random })
    }

    pub fn sign(&self, claims: &Claims) -> Result<String, String> {
        let header = serde_json::json!({"alg": "ES256", "kid": self.id, "typ": "JWT"}).to_string();
        let claims = serde_json::to_string(claims).map_err(|error| error.to_string())?;
        let text = format!("{}.{}", BASE64_URL_SAFE_NO_PAD.encode(header), BASE64_URL_SAFE_NO_PAD.encode(claims));
        let signature = self.key.sign(&self.random, text.as_bytes()).map_err(|error| error.to_string())?;
        Ok(format!("{text}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature)))
    }

    /// Reads a token this key signed. Times and audience are the caller's to check.
    pub fn verify(&self, token: &str, issuer: &str) -> Result<Claims, String> {
        let (text, signature) = token.rsplit_once('.').ok_or("the token is no JWT")?;
        let (header, claims) = text.split_once('.').ok_or("the token is no JWT")?;
        let decode = |part: &str| BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| "the token is no JWT".to_owned());
        let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| "the token's header is wrong")?;
        if header.alg != "ES256" || header.kid != self.id {
            return Err("the token is signed in another way or by another key".into());
        }
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.key.public_key().as_ref())
            .verify(text.as_bytes(), &decode(signature)?)
            .map_err(|_| "the token's signature is wrong")?;
        let claims: Claims =
            serde_json::from_slice(&decode(claims)?).map_err(|error| format!("the token's claims: {error}"))?;
        if claims.iss != issuer {
            return Err(format!("the token's issuer is {:?}", claims.iss));
        }
        Ok(claims)
    }
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Audience {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Audience::deserialize(deserializer)? {
        Audience::One(one) => vec![one],
        Audience::Many(many) => many,
    })
}
