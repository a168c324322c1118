import { createHmac, randomBytes } from 'node:crypto'
import { isAnonymous, parseBasic } from '../../shared/auth/basic.ts'
import { createLru } from '../../shared/memory/lru.ts'
import { OciError } from '../../shared/oci/errors.ts'
import type { OciPath } from '../../shared/oci/paths.ts'
import type { RepositoryName } from '../../shared/oci/reference.ts'
import { SourceError } from '../../shared/stream/blob-source.ts'
import type { UpstreamClient, UpstreamRequest } from '../../shared/upstream/fetch.ts'
import { refusalOf } from '../upstreams/refusal.ts'
import { isRefusal } from '../upstreams/refused.ts'
import { createShare } from '../upstreams/share.ts'
import type { Authorise, EdgeCaller, PullGrant, PullTarget } from './authorise.ts'

export interface PassthroughDeps {
  readonly client: UpstreamClient
  /** How many decisions are remembered, and for how many milliseconds: a minute at most. */
  readonly decisions: number
  readonly decisionTtlMs: number
}

/** The rights of a client are those of its own credential at the upstream, as it said at most so long ago. */
const longestDecisionMs = 60_000

/**
 * The rules of a listener that stands for one upstream: clients log in by Basic with what they have there, which goes to
 * that upstream and its token service and nowhere else. The upstream decides, repository by repository; while it cannot be
 * asked, only decisions that are young enough count.
 */
export function createPassthroughAccess({
  client,
  decisions,
  decisionTtlMs,
}: PassthroughDeps): Authorise {
  // Credentials are never kept: an entry is found by a keyed hash that means nothing to another process.
  const secret = randomBytes(32)
  const granted = createLru<string, true>({
    max: decisions,
    ttl: Math.min(decisionTtlMs, longestDecisionMs),
  })
  const askOnce = createShare<boolean>()

  const loginOf = (authorization: string | undefined): Login => {
    if (authorization === undefined) return anonymous
    const credential = parseBasic(authorization)
    if (credential === undefined) throw challenge(refusedLogin)
    if (isAnonymous(credential)) return anonymous
    const identity = createHmac('sha256', secret).update(authorization).digest('base64')
    return { credential, identity }
  }
  const keyOf = ({ identity }: Login, repository: RepositoryName) => `${repository}!${identity}`

  const grantOf = (login: Login, repository: RepositoryName): PullGrant => ({
    ...login,
    revoke: () => void granted.delete(keyOf(login, repository)),
  })

  return {
    isOpen: () => false,
    async ping({ authorization, requestId }) {
      if (authorization === undefined) throw challenge(noLogin)
      const login = loginOf(authorization)
      try {
        await client.ping({ ...login, headers: { 'X-Request-Id': requestId } })
      } catch (error) {
        throw refusalOfPing(error)
      }
    },
    known({ authorization }, { repository }) {
      // What is no log-in is `pull`'s to refuse.
      if (authorization !== undefined && parseBasic(authorization) === undefined) return undefined
      const login = loginOf(authorization)
      return granted.has(keyOf(login, repository)) ? grantOf(login, repository) : undefined
    },
    async pull({ authorization, requestId }: EdgeCaller, { repository, path }: PullTarget) {
      const login = loginOf(authorization)
      const key = keyOf(login, repository)
      if (granted.has(key)) return grantOf(login, repository)
      const request = { ...login, headers: { 'X-Request-Id': requestId } }
      const mayRead = await askOnce(`${key}!${wordOf(path)}`, () =>
        isThere(client, { repository, path, request }),
      )
      // One answer for what is not there and for what this login may not read; who has none is told how to log in.
      if (!mayRead) {
        if (login === anonymous) throw challenge(noLogin)
        throw refusalOf(new SourceError('absent', 'refused or absent'), path.kind)
      }
      granted.set(key, true)
      return grantOf(login, repository)
    },
  }
}

interface Login {
  readonly credential: NonNullable<UpstreamRequest['credential']>
  /** Tells callers apart, without saying who they are. */
  readonly identity: string
}

const anonymous: Login = { credential: 'anonymous', identity: 'anonymous' }

/**
 * Whether the upstream shows this caller what it asks for: a registry's rights are a repository's, and reading a thing in it is
 * the one question that all of them answer truly.
 * @throws OciError when the upstream cannot be asked
 */
async function isThere(
  client: UpstreamClient,
  {
    repository,
    path,
    request,
  }: {
    readonly repository: RepositoryName
    readonly path: OciPath
    readonly request: UpstreamRequest
  },
): Promise<boolean> {
  try {
    const found =
      path.kind === 'manifest' && path.reference !== undefined
        ? await client.headManifest(repository, path.reference, request)
        : path.kind === 'blob' && path.digest !== undefined
          ? await client.headBlob(repository, path.digest, request)
          : await client.listTags(repository, { n: 1 }, request)
    return found !== undefined
  } catch (error) {
    if (!(error instanceof SourceError)) throw error
    if (isRefusal(error)) return false
    throw refusalOf(error, path.kind)
  }
}

/** What was asked for, in the key of the question. */
function wordOf(path: OciPath): string {
  return 'text' in path ? `${path.kind} ${path.text}` : path.kind
}

const noLogin = "log in with what you have at this edge's upstream"
const refusedLogin = 'the upstream does not take this login'

/** Exactly one challenge, and Basic: the edge speaks to the token service itself, with what it is given here. */
function challenge(message: string): OciError {
  return new OciError('UNAUTHORIZED', message, {
    headers: { 'WWW-Authenticate': 'Basic realm="outport edge", charset="UTF-8"' },
  })
}

function refusalOfPing(error: unknown): unknown {
  if (!(error instanceof SourceError)) return error
  return error.code === 'refused' ? challenge(refusedLogin) : refusalOf(error, 'ping')
}
