import { createHmac, randomBytes } from 'node:crypto'
import { formatBasic } from '../auth/basic.ts'
import { HttpError, type HttpClient, type HttpResponse } from '../http/client.ts'
import { createLru } from '../memory/lru.ts'
import { SourceError } from '../stream/blob-source.ts'
import { parseChallenges, type Challenge } from './challenge.ts'
import { errorOfHttp, errorOfStatus } from './outcome.ts'
import type { Credential, RegistryEntry } from './registries.ts'

/** Who asks for what: tokens are kept apart by it. */
export interface Access {
  /** The repository's name at the upstream; undefined for the ping. */
  readonly repository: string | undefined
  /** Undefined: anonymous. */
  readonly credential: Credential | undefined
}

/** What to send now. */
export interface LogIn {
  /** The `Authorization` header. */
  readonly authorization: string
  /** It cannot have been refused before: a 401 to it is final. */
  readonly fresh: boolean
}

/** Answers an upstream's challenges, and remembers tokens per realm, service, scope and credential. */
export interface Authenticator {
  /** The upstream's id. */
  readonly name: string
  /** The `Authorization` that was good the last time, if it still is. */
  known(access: Access): string | undefined
  /**
   * What a 401 asks for, by the first of its challenges that we can answer.
   * @param refused what was sent with the request that got the 401; it is not given again
   * @throws SourceError `refused` when there is nothing (better) to send, `broken` when the realm is not one of the upstream's
   */
  answer(header: string | undefined, access: Access, refused: string | undefined): Promise<LogIn>
}

export interface AuthenticatorDeps {
  readonly entry: RegistryEntry
  readonly http: HttpClient
  /** Milliseconds, monotonic. */
  readonly now: () => number
}

interface Token {
  readonly authorization: string
  /** By `now`. */
  readonly expires: number
}

/** A token without `expires_in` lives a minute. [distribution, spec/auth/token.md] */
const defaultLifeSeconds = 60
/** A token is fetched anew so long before it ends: the request has to arrive with it. */
const marginMs = 10_000
const maxLifeMs = 3_600_000
const tokenMaxBytes = 64 * 1024

export function createAuthenticator({ entry, http, now }: AuthenticatorDeps): Authenticator {
  const tokens = createLru<string, Token>({ max: 4096 })
  /** What an access was challenged for the last time: the key of its token. */
  const challenged = createLru<string, string>({ max: 4096 })
  const fetching = new Map<string, Promise<Token>>()
  const secret = randomBytes(32)

  /** Credentials appear in keys only as their HMAC. */
  const keyOf = (...parts: (string | undefined)[]) => JSON.stringify(parts)
  const credentialKey = (credential: Credential | undefined) =>
    credential &&
    createHmac('sha256', secret)
      .update(keyOf(credential.username, credential.password))
      .digest('base64')
  const accessKey = ({ repository, credential }: Access) =>
    keyOf(repository, credentialKey(credential))

  async function answerBearer(
    challenge: Challenge,
    access: Access,
    refused: string | undefined,
  ): Promise<LogIn> {
    const realm = realmOf(entry, challenge.parameters.get('realm'))
    const service = challenge.parameters.get('service')
    const scope = challenge.parameters.get('scope') ?? defaultScope(access)
    const key = keyOf(realm.href, service, scope, credentialKey(access.credential))
    challenged.set(accessKey(access), key)
    const held = tokens.get(key)
    if (held !== undefined && held.expires > now() && held.authorization !== refused)
      return { authorization: held.authorization, fresh: false }
    tokens.delete(key)
    const running = fetching.get(key) ?? fetchToken(key, { realm, service, scope, access })
    return { authorization: (await running).authorization, fresh: true }
  }

  function fetchToken(key: string, request: TokenRequest): Promise<Token> {
    const running = requestToken(request)
      .then((token) => {
        tokens.set(key, token)
        return token
      })
      .finally(() => fetching.delete(key))
    fetching.set(key, running)
    return running
  }

  async function requestToken({ realm, service, scope, access }: TokenRequest): Promise<Token> {
    const url = new URL(realm)
    if (service !== undefined) url.searchParams.set('service', service)
    if (scope !== undefined) url.searchParams.set('scope', scope)
    const { credential } = access
    const askedAt = now()
    const response = await http
      .request(url, {
        headers: credential === undefined ? {} : { authorization: formatBasic(credential) },
        maxBytes: tokenMaxBytes,
      })
      .catch((error: unknown) => {
        throw error instanceof HttpError ? errorOfHttp(entry.id, error) : error
      })
    if (response.status !== 200) throw errorOfTokenService(entry, response)
    const { token, lifeSeconds } = readToken(entry, response.body)
    const lifeMs = Math.min(lifeSeconds * 1000, maxLifeMs)
    return {
      authorization: `Bearer ${token}`,
      expires: askedAt + lifeMs - Math.min(marginMs, lifeMs / 2),
    }
  }

  return {
    name: entry.id,
    known(access) {
      const key = challenged.get(accessKey(access))
      // Our primary would not ask who reads what is public, and then does not know whom it answers.
      if (key === undefined && entry.kind === 'primary')
        return access.credential && formatBasic(access.credential)
      if (key === undefined) return undefined
      if (key === 'basic') return access.credential && formatBasic(access.credential)
      const token = tokens.get(key)
      return token !== undefined && token.expires > now() ? token.authorization : undefined
    },
    async answer(header, access, refused) {
      for (const challenge of parseChallenges(header ?? '')) {
        if (challenge.scheme === 'bearer') return answerBearer(challenge, access, refused)
        if (challenge.scheme !== 'basic' || access.credential === undefined) continue
        const authorization = formatBasic(access.credential)
        if (authorization === refused) break
        challenged.set(accessKey(access), 'basic')
        return { authorization, fresh: true }
      }
      throw errorOfStatus(entry.id, 401)
    },
  }
}

interface TokenRequest {
  readonly realm: URL
  readonly service: string | undefined
  readonly scope: string | undefined
  readonly access: Access
}

/**
 * The realm, if it may have credentials: the upstream's own origin or a listed host, never with less
 * protection than the upstream itself. [CVE-2026-33540, CVE-2026-48978]
 */
function realmOf(entry: RegistryEntry, text: string | undefined): URL {
  // A primary names its realm for people, by the URL that they use; its token service is where it is itself.
  if (entry.kind === 'primary') return new URL('/service/token', entry.url)
  const realm = text === undefined ? null : URL.parse(text)
  if (realm === null || realm.username !== '' || realm.password !== '')
    throw new SourceError('broken', `${entry.id} names no usable realm`)
  const isPlain = realm.protocol === 'http:' && entry.url.protocol === 'http:'
  if (realm.protocol !== 'https:' && !isPlain)
    throw new SourceError(
      'broken',
      `${entry.id} names the realm ${realm.origin}, which is not https`,
    )
  if (realm.origin === entry.url.origin || isListed(entry, realm)) return realm
  throw new SourceError(
    'broken',
    `${entry.id} names the realm ${realm.origin}, which is not listed in its realm_hosts`,
  )
}

function isListed(entry: RegistryEntry, realm: URL): boolean {
  return entry.realmHosts.some((listed) => {
    const host = listed.toLowerCase()
    return host === realm.host || (realm.port === '' && host === realm.hostname)
  })
}

function defaultScope({ repository }: Access): string | undefined {
  return repository === undefined ? undefined : `repository:${repository}:pull`
}

/** A token service that is not where the challenge says is no word about what was asked for. */
function errorOfTokenService(entry: RegistryEntry, response: HttpResponse): SourceError {
  const name = `the token service of ${entry.id}`
  const error = errorOfStatus(name, response.status, response.headers)
  return error.code === 'absent' ? new SourceError('broken', error.message) : error
}

function readToken(entry: RegistryEntry, body: Buffer): { token: string; lifeSeconds: number } {
  const answer = parseObject(body)
  const token = answer?.['token'] ?? answer?.['access_token']
  // It goes into a header: printable ASCII only.
  if (typeof token !== 'string' || !/^[\x21-\x7e]+$/.test(token))
    throw new SourceError('broken', `the token service of ${entry.id} gives no token`)
  const life = answer?.['expires_in']
  const lifeSeconds = typeof life === 'number' && life > 0 ? life : defaultLifeSeconds
  return { token, lifeSeconds }
}

function parseObject(body: Buffer): Record<string, unknown> | undefined {
  try {
    const parsed: unknown = JSON.parse(body.toString())
    return typeof parsed === 'object' && parsed !== null
      ? (parsed as Record<string, unknown>)
      : undefined
  } catch {
    return undefined
  }
}
