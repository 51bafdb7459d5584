"""Tokens of an OpenID provider: JSON Web Tokens, verified by PyJWT with the issuer's published keys."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from consumers.http.problems import HttpProblem, Problem
from consumers.query.access.caller import SCOPES, Caller, Scope, forbidden, is_tenant
from consumers.query.access.refusals import unauthenticated
from consumers.query.access.signing_keys import SigningKeys
from pipeline.errors import Unavailable, UsageError

if TYPE_CHECKING:
    from jwt.api_jwk import PyJWK

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Asymmetric ones only: with HS256 the issuer's public key would be a secret that everybody knows."""
LEEWAY_S = 30
"""How far the clocks of issuer and worker may differ."""
MOST_CHARS = 8_192
_MOST_NAME_CHARS = 200


class OidcTokens:
    """Finds the caller of a token: signature, issuer, audience and time are checked, then the claims are read."""

    def __init__(
        self,
        issuer: str,
        audience: str,
        *,
        tenant_claim: str | None = None,
        scope_claim: str | None = None,
        keys: SigningKeys | None = None,
    ) -> None:
        """`tenant_claim`: holds the tenant, and a token without it is refused; None: tokens see every tenant.

        `scope_claim`: lists the scopes; None: every token may search, and do nothing else. Raises UsageError where
        PyJWT is not installed.
        """
        try:
            import jwt  # noqa: PLC0415 - an extra
            import jwt.algorithms  # noqa: PLC0415
        except ImportError:
            raise UsageError("query.auth.oidc needs PyJWT: install milvus-stream with the extra `oidc`") from None
        if not jwt.algorithms.has_crypto:
            raise UsageError("query.auth.oidc needs cryptography: install milvus-stream with the extra `oidc`")
        self._jwt = jwt
        self._issuer = issuer
        self._audience = audience
        self._tenant_claim = tenant_claim
        self._scope_claim = scope_claim
        self._keys = keys or SigningKeys(issuer, ALGORITHMS)

    async def caller(self, token: str) -> Caller:
        """The caller. Raises HttpProblem: 401 for a token that is not valid, 403 for one without tenant, 503."""
        if len(token) > MOST_CHARS:
            raise unauthenticated(f"the token has more than {MOST_CHARS:,} characters")
        key = await self._key(token)
        claims = self._checked(lambda: self._verified(token, key))
        subject = claims["sub"]
        name = subject if isinstance(subject, str) and subject.isprintable() else repr(subject)
        return Caller(name[:_MOST_NAME_CHARS], self._tenant(claims), self._scopes(claims))

    async def _key(self, token: str) -> "PyJWK":
        header = self._checked(lambda: self._jwt.get_unverified_header(token))
        # Refused before the issuer is read: `none`, and HMAC with a public key as its secret.
        if header.get("alg") not in ALGORITHMS:
            raise unauthenticated(f"the token is not signed by one of {', '.join(ALGORITHMS)}")
        try:
            key = await self._keys.find(header.get("kid"))
        except Unavailable:
            detail = "the keys of the issuer cannot be read now; the line access.issuer_unread of the log says why"
            raise HttpProblem(
                Problem(503, "issuer-unavailable", "The issuer of tokens is away", detail, retry=True)
            ) from None
        if key is None:
            raise unauthenticated("the token names no key that its issuer publishes")
        return key

    def _verified(self, token: str, key: "PyJWK") -> Mapping[str, Any]:
        claims: Mapping[str, Any] = self._jwt.decode(
            token,
            key,
            algorithms=ALGORITHMS,
            audience=self._audience,
            issuer=self._issuer,
            leeway=LEEWAY_S,
            options={"require": ["exp", "iss", "aud", "sub"], "enforce_minimum_key_length": True},
        )
        return claims

    def _checked(self, check: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        """What `check` returns. What is wrong with a token is for whoever sent it; the token itself is not repeated."""
        try:
            return check()
        except self._jwt.ExpiredSignatureError:
            raise unauthenticated("the token has expired") from None
        except self._jwt.InvalidAudienceError:
            raise unauthenticated("the token is for another audience") from None
        except self._jwt.InvalidIssuerError:
            raise unauthenticated("the token is of another issuer") from None
        # PyJWT lets some errors of the values inside through, as of a time beyond all numbers.
        except (self._jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
            raise unauthenticated("the token is not valid") from None

    def _tenant(self, claims: Mapping[str, Any]) -> str | None:
        """The tenant as records have it: an integer is the same as its digits."""
        if self._tenant_claim is None:
            return None
        value = claims.get(self._tenant_claim)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str) or not is_tenant(value):
            raise forbidden(f"the token has no tenant in its claim {self._tenant_claim}")
        return value

    def _scopes(self, claims: Mapping[str, Any]) -> frozenset[Scope]:
        if self._scope_claim is None:
            return frozenset({"search"})
        value = claims.get(self._scope_claim)
        granted = value.split() if isinstance(value, str) else value if isinstance(value, list) else []
        return frozenset(scope for scope in SCOPES if scope in granted)
