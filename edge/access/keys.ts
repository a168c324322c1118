import type { PublicKeys } from '../../shared/auth/token.ts'
import { OciError } from '../../shared/oci/errors.ts'
import type { CacheIndex } from '../cache/cache-index.ts'
import type { AskPrimary } from './token-relay.ts'

/** The primary's public token keys, as this edge knows them. */
export interface PrimaryKeys {
  /**
   * The key set, at once unless it has to be asked for: it lacks `kid`, or is old. That is at most every few seconds.
   * @throws OciError UNAVAILABLE when the key is not known and the primary is away
   */
  get(kid: string): PublicKeys | Promise<PublicKeys>
  /** Asks for it now, before a token comes that wants it: the log told of another key. */
  renew(): void
}

export interface PrimaryKeysDeps {
  readonly ask: AskPrimary
  readonly index: CacheIndex
  readonly now: () => number
}

/** A made-up `kid` in a token must not become a request each. */
const askAgainMs = 5000
/** A key that the primary retired goes within this time. */
const refreshMs = 300_000
const documentName = 'primary-keys'

/** Keeps the key set in the index too, so that an edge that starts without its primary knows its clients. */
export function createPrimaryKeys({ ask, index, now }: PrimaryKeysDeps): PrimaryKeys {
  let known = readKeys(index.document(documentName))
  let [askedAt, answeredAt] = [-Infinity, -Infinity]
  let asking: Promise<void> | undefined

  const refresh = async () => {
    askedAt = now()
    const answer = await ask('/service/jwks', {})
    const keys = answer.status === 200 ? readKeys(JSON.parse(answer.body)) : undefined
    if (keys === undefined)
      throw new Error(`the primary answered ${answer.status} to a request for its keys`)
    known = keys
    answeredAt = now()
    await index.putDocument(documentName, keys)
  }
  const refreshOnce = async () => {
    asking ??= refresh().finally(() => {
      asking = undefined
    })
    await asking
  }

  const refreshed = async (has: boolean): Promise<PublicKeys> => {
    try {
      await refreshOnce()
    } catch (cause) {
      // With the wanted key at hand a primary that is away changes nothing.
      if (!has) throw unavailable(cause)
    }
    return known ?? noKeys
  }

  return {
    get(kid) {
      const has = known?.keys.some((key) => key.kid === kid) === true
      const isDue = has ? answeredAt + refreshMs <= now() : true
      const mayAsk = asking !== undefined || askedAt + askAgainMs <= now()
      return isDue && mayAsk ? refreshed(has) : (known ?? noKeys)
    },
    renew() {
      // What is being asked for may have been answered before.
      const before = asking?.catch(ignore) ?? Promise.resolve()
      before.then(refreshOnce).catch(ignore)
    },
  }
}

function ignore(): void {
  // It is asked for again when a token wants it.
}

const noKeys: PublicKeys = { keys: [] }

function unavailable(cause: unknown): OciError {
  return new OciError(
    'UNAVAILABLE',
    'the primary cannot be reached to check this token: try again later',
    {
      headers: { 'Retry-After': '5' },
      cause,
    },
  )
}

function readKeys(value: unknown): PublicKeys | undefined {
  if (typeof value !== 'object' || value === null || !('keys' in value)) return undefined
  return Array.isArray(value.keys) ? { keys: value.keys.filter(isKey) } : undefined
}

function isKey(value: unknown): value is PublicKeys['keys'][number] {
  return typeof value === 'object' && value !== null && 'kty' in value
}
