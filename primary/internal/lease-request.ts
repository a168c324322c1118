import type { LeaseRequest } from '../../shared/replication/lease.ts'
import { checkOf } from '../../shared/schema/check.ts'
import { Type } from '../../shared/schema/type.ts'

const count = Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER })
const place = Type.Object({ epoch: Type.Integer({ minimum: 1 }), seq: count })
const word = (maxLength: number) => Type.String({ maxLength })
/** Epoch ms up to the year 9999: what is later is no date to PostgreSQL and JavaScript alike. */
const time = Type.Integer({ minimum: 0, maximum: 253_402_300_799_999 })
/** A signed head of the log. */
const proof = Type.Object({
  payloadType: word(128),
  payload: word(2048),
  signatures: Type.Array(Type.Object({ keyid: word(128), sig: word(256) }), { maxItems: 8 }),
})
const check = checkOf(
  Type.Object({
    nonce: Type.String({ pattern: '^[A-Za-z0-9_-]{22}$' }),
    applied: place,
    proof: Type.Optional(proof),
    heldSeq: count,
    waitingBytes: count,
    peerUrl: Type.Optional(Type.String({ pattern: '^https://[A-Za-z0-9.:_\\[\\]-]{1,255}$' })),
    report: Type.Object({
      version: word(64),
      clock: count,
      cacheBytes: count,
      cacheSizeBytes: count,
      hits: count,
      misses: count,
      servedBytes: count,
      url: word(512),
      transfers: Type.Optional(count),
      draining: Type.Optional(Type.Boolean()),
      lastError: word(512),
      lastErrorAt: Type.Optional(time),
      lastErrorIsOver: Type.Optional(Type.Boolean()),
      failures: Type.Array(
        Type.Object({ ruleId: count, repositoryId: count, digest: word(160), reason: word(256) }),
        { maxItems: 200 },
      ),
      preheats: Type.Optional(
        Type.Array(
          Type.Object({
            id: count,
            isHeld: Type.Boolean(),
            reason: word(256),
            missing: Type.Optional(Type.Array(word(160), { maxItems: 1000 })),
          }),
          { maxItems: 100 },
        ),
      ),
      prune: Type.Optional(
        Type.Object({
          outcome: Type.Union(
            ['nothing', 'refused', 'shown', 'done'].map((word) => Type.Literal(word)),
          ),
          at: time,
          blobs: count,
          bytes: count,
          digests: Type.Array(word(160), { maxItems: 100 }),
          removed: Type.Optional(Type.Object({ at: time, blobs: count, bytes: count })),
        }),
      ),
    }),
  }),
)

/** Whether an edge may ask so. What a newer edge says besides is let through, and passed by. */
export function isLeaseRequest(value: unknown): value is LeaseRequest {
  return check(value) === undefined
}
