import { randomBytes, randomUUID } from 'node:crypto'
import type { Readable } from 'node:stream'
import {
  algorithmOf,
  isDigest,
  parseDigest,
  type Digest,
  type DigestAlgorithm,
} from '../../shared/oci/digest.ts'
import { OciError } from '../../shared/oci/errors.ts'
import { uploadPath } from '../../shared/oci/paths.ts'
import type { RepositoryName } from '../../shared/oci/reference.ts'
import { formatUploadRange } from '../../shared/stream/range.ts'
import type { Caller, RepositoryFacts } from '../accounts/caller.ts'
import type { BlobSweeper, BlobWriter } from '../store/blobs.ts'
import type { StoredBlobs } from '../store/stored-blobs.ts'
import type { Claim, Uploads as UploadRecords, UploadSession } from '../store/uploads.ts'
import { accountOf, type Access, type Grant } from './access.ts'
import { createUploadGate, tooMany, type UploadLimits } from './upload-limits.ts'

export interface UploadsDeps {
  readonly access: Access
  readonly records: UploadRecords
  readonly storedBlobs: StoredBlobs
  readonly blobs: BlobWriter & Pick<BlobSweeper, 'remove'>
  /** What this primary's claims on sessions begin with. */
  readonly primaryId: string
  readonly limits: UploadLimits
  /** Milliseconds that a claim outlives the last sign of life of the primary that holds it. */
  readonly claimMs: number
  /** Told of the bytes of each upload that became a blob. */
  readonly onReceived?: (bytes: number) => void
}

/** What a request says of a session. */
export interface UploadTarget {
  readonly caller: Caller
  readonly repository: RepositoryName
  readonly id: string
}

/** Bytes that a request brings. */
export interface UploadChunk {
  readonly body: Readable
  /** Of `Content-Length`; undefined: chunked. */
  readonly length: number | undefined
  /** Of `Content-Range`, inclusive; undefined: at the end of what is held. */
  readonly range: { readonly start: number; readonly end: number } | undefined
}

export interface UploadStatus {
  readonly id: string
  /** Bytes received and synced. */
  readonly held: number
}

interface Opening {
  readonly grant: Grant
  readonly algorithm: DigestAlgorithm | undefined
  /** Makes the opener its one writer from the start. */
  readonly claim: Claim | undefined
}

/** A session, and the claim that makes one request its writer. */
interface HeldSession extends UploadSession {
  readonly claim: Claim
}

const uuid = /^[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}$/
const sweepBatch = 100

export type UploadSessions = ReturnType<typeof createUploadSessions>

/**
 * Upload sessions: bound to a repository and to the account that opened them, written by one request at a time,
 * and gone on with by any primary. [distribution-spec, Pushing blobs]
 */
export function createUploadSessions(deps: UploadsDeps) {
  const { access, records, blobs, primaryId, limits } = deps
  // Signed by request, not by primary: one whose claim lapsed must not pass for the one that holds it now.
  const newClaim = (): Claim => ({ by: `${primaryId} ${randomUUID()}`, forMs: deps.claimMs })
  const gate = createUploadGate(limits)

  const create = async (
    { caller, repository }: Omit<UploadTarget, 'id'>,
    { grant, algorithm, claim }: Opening,
  ): Promise<UploadSession> => {
    const id = randomUUID()
    // Random and never used again: a late removal of one copy can never hit another.
    const key = randomBytes(16).toString('hex')
    const owner = accountOf(caller)
    const created = await records.create(
      {
        id,
        key,
        place: { projectId: grant.project.id, name: repository },
        owner,
        algorithm,
        maxOpen: limits.openPerAccount,
        claim,
      },
      new Date(),
    )
    if (created === undefined) {
      throw tooMany(`this account has ${limits.openPerAccount} open uploads: finish or cancel some`)
    }
    await blobs.create(key)
    return { id, key, repositoryId: created.id, algorithm }
  }

  /**
   * Ends a session without a blob. The record goes first, and only while the claim holds: from then on nobody can
   * make its bytes a blob. A crash in between leaves a file, never a blob without its bytes.
   * @returns false when somebody else decides about it now
   */
  const forget = async (session: HeldSession): Promise<boolean> => {
    if (!(await records.remove(session.id, session.claim.by))) return false
    await blobs.abort(session.key)
    // A crash between the store's commit and the records' leaves a copy that nothing names.
    await blobs.remove(session.key)
    return true
  }

  /** Runs a request as the session's one writer; undefined when there is no such session. */
  const write = async <Result>(
    target: UploadTarget,
    grant: Grant,
    run: (session: HeldSession) => Promise<Result>,
  ): Promise<Result | undefined> => {
    const claim = newClaim()
    const address = addressOf(target, grant.repository)
    const session = address && (await records.claim(address, claim))
    if (session === undefined) return undefined
    if (session === 'busy') throw busy(target)
    return hold({ ...session, claim }, run)
  }

  /** Runs with a claim that is held already, renews it meanwhile, and gives it back. */
  const hold = async <Result>(
    session: HeldSession,
    run: (session: HeldSession) => Promise<Result>,
  ): Promise<Result> => {
    const beat = setInterval(() => {
      // A claim that could not be renewed lapses, and the store's offsets still keep two writers apart.
      records.renew(session.id, session.claim).catch(() => undefined)
    }, deps.claimMs / 3)
    try {
      return await run(session)
    } finally {
      clearInterval(beat)
      await records.release(session.id, session.claim.by)
    }
  }

  const append = async (
    target: UploadTarget,
    session: UploadSession,
    chunk: UploadChunk,
  ): Promise<number> => {
    const held = await blobs.held(session.key)
    if (held === undefined) throw uploadUnknown(target.id)
    if (chunk.range !== undefined) checkRange({ target, held, chunk, range: chunk.range })
    if (chunk.length === 0) return held
    const after = await blobs.append(session.key, held, chunk.body)
    checkReceived({ target, held, after, range: chunk.range })
    return after
  }

  /** Nobody knows the id of this session: what is not received whole is of no use. */
  const appendOrForget = async (
    target: UploadTarget,
    session: HeldSession,
    chunk: UploadChunk,
  ): Promise<void> => {
    try {
      await append(target, session, chunk)
    } catch (error) {
      await forget(session)
      throw error
    }
  }

  const commit = async (session: HeldSession, digest: Digest): Promise<void> => {
    const { size } = await commitBytes(session, digest)
    const { id: uploadId, key, repositoryId, claim } = session
    const received = { uploadId, claimedBy: claim.by, key, repositoryId, digest, size }
    const kept = await deps.storedBlobs.commit(received, new Date())
    if (kept === undefined) throw uploadUnknown(uploadId)
    deps.onReceived?.(size)
    if (kept.key !== key) await blobs.remove(key)
  }

  const commitBytes = async (session: HeldSession, digest: Digest) => {
    try {
      return await blobs.commit(session.key, digest)
    } catch (error) {
      if (error instanceof OciError && error.code === 'DIGEST_INVALID') await forget(session)
      throw error
    }
  }

  return {
    /** Opens a session. [end-4a, end-4c] */
    async open(
      target: Omit<UploadTarget, 'id'> & { readonly algorithm?: DigestAlgorithm | undefined },
    ): Promise<UploadStatus> {
      const grant = await access.allow({ ...target, action: 'push' })
      const { algorithm } = target
      const { id } = await create(target, { grant, algorithm, claim: undefined })
      return { id, held: 0 }
    },

    /** Takes a whole blob. [end-4b] */
    async receiveWhole(
      target: Omit<UploadTarget, 'id'>,
      { digest: text, chunk }: { readonly digest: string; readonly chunk: UploadChunk },
    ): Promise<Digest> {
      const grant = await access.allow({ ...target, action: 'push' })
      const digest = parseDigest(text)
      return gate.run(accountOf(target.caller), async () => {
        const algorithm = algorithmOf(digest)
        const claim = newClaim()
        const opened = await create(target, { grant, algorithm, claim })
        return hold({ ...opened, claim }, async (session) => {
          await appendOrForget({ ...target, id: session.id }, session, chunk)
          await commit(session, digest)
          return digest
        })
      })
    },

    /** Appends to a session. [end-5] */
    async receive(target: UploadTarget, chunk: UploadChunk): Promise<UploadStatus> {
      const grant = await access.allow({ ...target, action: 'push' })
      return gate.run(accountOf(target.caller), async () => {
        const held = await write(target, grant, (session) => append(target, session, chunk))
        if (held === undefined) throw uploadUnknown(target.id)
        return { id: target.id, held }
      })
    },

    /**
     * Takes the last bytes, if any, and makes the blob the repository's. A client that repeats a finished request,
     * because it lost the answer, gets the answer again. [end-6]
     */
    async finish(
      target: UploadTarget,
      { digest: text, chunk }: { readonly digest: string | null; readonly chunk: UploadChunk },
    ): Promise<Digest> {
      const named = text !== null && isDigest(text) ? { digest: text, promise: true } : {}
      const grant = await access.allow({ ...target, ...named, action: 'push' })
      const digest = parseDigest(text ?? '')
      return gate.run(accountOf(target.caller), async () => {
        const finished = await write(target, grant, async (session) => {
          await append(target, session, chunk)
          await commit(session, digest)
          return digest
        })
        if (finished === undefined && grant.blob === undefined) throw uploadUnknown(target.id)
        return digest
      })
    },

    /** How far a session is. [end-13] */
    async status(target: UploadTarget): Promise<UploadStatus> {
      const grant = await access.allow({ ...target, action: 'push' })
      const address = addressOf(target, grant.repository)
      const session = address && (await records.find(address))
      const held = session && (await blobs.held(session.key))
      if (held === undefined) throw uploadUnknown(target.id)
      return { id: target.id, held }
    },

    /** Ends a session without a blob. Needs the right to push, not to delete: it takes back what a push began. [end-14] */
    async cancel(target: UploadTarget): Promise<void> {
      const grant = await access.allow({ ...target, action: 'push' })
      if ((await write(target, grant, forget)) !== true) throw uploadUnknown(target.id)
    },

    /**
     * Removes sessions that nobody went on with, and their bytes.
     * @returns how many
     * @throws AggregateError of what failed, when all that could be removed is
     */
    async sweep(idleMs: number): Promise<number> {
      let removed = 0
      const failures: unknown[] = []
      const claim = newClaim()
      for (;;) {
        const expired = await records.claimExpired({ idleMs, claim, limit: sweepBatch })
        for (const session of expired) {
          try {
            if (await forget({ ...session, claim })) removed++
          } catch (error) {
            failures.push(error)
          }
        }
        if (expired.length < sweepBatch) break
      }
      if (failures.length === 0) return removed
      throw new AggregateError(failures, `${failures.length} uploads could not be removed whole`)
    },

    /** Lets go of what requests of an earlier run of this primary held when it died. */
    recover: (): Promise<void> => records.releaseAll(`${primaryId} `),

    /** Requests that receive bytes now. */
    running: gate.running,
  }
}

function addressOf({ caller, id }: UploadTarget, repository: RepositoryFacts | undefined) {
  // Other ids than our own would be an error to the database.
  if (repository === undefined || !uuid.test(id)) return undefined
  return { id, repositoryId: repository.id, owner: accountOf(caller) }
}

interface RangeCheck {
  readonly target: UploadTarget
  readonly held: number
  readonly range: { readonly start: number; readonly end: number }
  readonly chunk: UploadChunk
}

function checkRange({ target, held, range, chunk }: RangeCheck): void {
  const length = range.end - range.start + 1
  if (chunk.length !== undefined && chunk.length !== length) {
    throw new OciError(
      'SIZE_INVALID',
      `Content-Range names ${length} bytes, and Content-Length ${chunk.length}`,
      { headers: progressHeaders(target, held) },
    )
  }
  if (range.start !== held) {
    throw new OciError('RANGE_INVALID', `this upload holds ${held} bytes: go on at byte ${held}`, {
      headers: progressHeaders(target, held),
    })
  }
}

/** A chunked body can only be measured once it is here: what came is kept, and the client told how much. */
function checkReceived({
  target,
  held,
  after,
  range,
}: {
  readonly target: UploadTarget
  readonly held: number
  readonly after: number
  readonly range: { readonly start: number; readonly end: number } | undefined
}): void {
  if (range === undefined || after - held === range.end - range.start + 1) return
  throw new OciError(
    'SIZE_INVALID',
    `Content-Range names ${range.end - range.start + 1} bytes, and ${after - held} came`,
    { headers: progressHeaders(target, after) },
  )
}

/** Where a session is continued, and how far it is. */
export function progressHeaders({ repository, id }: Omit<UploadTarget, 'caller'>, held: number) {
  return {
    Location: uploadPath(repository, id),
    Range: formatUploadRange(held),
    'Docker-Upload-UUID': id,
  }
}

function uploadUnknown(id: string): OciError {
  return new OciError(
    'BLOB_UPLOAD_UNKNOWN',
    'there is no such upload for this account in this repository: start a new one',
    { detail: { id } },
  )
}

function busy({ id }: UploadTarget): OciError {
  return new OciError(
    'BLOB_UPLOAD_INVALID',
    'another request is writing to this upload: wait for it, then ask how far the upload is',
    { status: 409, detail: { id } },
  )
}
