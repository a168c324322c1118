import { randomBytes, randomUUID } from 'node:crypto'
import type { TestContext } from 'node:test'
import type { Caller, RepositoryFacts } from '../../primary/accounts/caller.ts'
import type { Records } from '../../primary/store/database.ts'
import { createManifests } from '../../primary/store/manifests.ts'
import { createStoredBlobs } from '../../primary/store/stored-blobs.ts'
import { createUploads } from '../../primary/store/uploads.ts'
import { parseManifest } from '../../shared/oci/manifest.ts'
import { parseRepositoryName, type Tag } from '../../shared/oci/reference.ts'
import type { EventFact } from '../../shared/replication/events.ts'
import type { Content, Image } from './images.ts'
import { createTestDatabase } from './postgres.ts'

/** A database with one user and one project, for tests of the records alone: no bytes, no server. */
export interface TestRegistryRecords {
  readonly records: Records
  readonly userId: number
  readonly projectId: number
  readonly caller: Caller
  readonly createProject: (name: string, isPublic?: boolean) => Promise<number>
  /** Registers a blob as uploaded; `kept` is another key when its digest had a copy already. */
  readonly addBlob: (
    repository: string,
    blob: Content,
  ) => Promise<{ repository: RepositoryFacts; key: string; kept: string }>
  readonly addImage: (
    repository: string,
    image: Image,
    tags?: readonly string[],
  ) => Promise<RepositoryFacts>
  readonly putManifest: (
    repository: string,
    manifest: Content,
    options?: { readonly tags?: readonly string[]; readonly sparse?: boolean },
  ) => Promise<RepositoryFacts>
  /** The facts in the outbox, in order. */
  readonly facts: () => Promise<readonly EventFact[]>
}

export const testActor = { username: 'someone', address: '127.0.0.1' }

export async function createRegistryRecords(
  t: TestContext,
  { poolSize = 6 } = {},
): Promise<TestRegistryRecords> {
  const { records } = await createTestDatabase(t, { poolSize })
  const manifests = createManifests(records)
  const uploads = createUploads(records)
  const storedBlobs = createStoredBlobs(records)
  const user = await records
    .insertInto('users')
    .values({
      username: 'someone',
      email: '',
      realname: '',
      comment: '',
      password_hash: null,
      sysadmin: false,
    })
    .returning('id')
    .executeTakeFirstOrThrow()

  const createProject = async (name: string, isPublic = true) => {
    const project = await records
      .insertInto('projects')
      .values({ name, owner_id: user.id, public: isPublic, metadata: '{}' })
      .returning('id')
      .executeTakeFirstOrThrow()
    return project.id
  }
  const projectId = await createProject('library')

  const putManifest: TestRegistryRecords['putManifest'] = (repository, manifest, options = {}) =>
    manifests.put(
      {
        place: { projectId, name: parseRepositoryName(repository) },
        digest: manifest.digest,
        content: manifest.bytes,
        manifest: parseManifest(manifest.bytes, manifest.mediaType),
        tags: (options.tags ?? []) as Tag[],
        conditions: { ifMatch: [], ifNoneMatch: [] },
        sparse: options.sparse ?? false,
        actor: testActor,
      },
      new Date(),
    )

  const addBlob: TestRegistryRecords['addBlob'] = async (name, { digest, bytes }) => {
    const [id, key] = [randomUUID(), randomBytes(16).toString('hex')]
    const place = { projectId, name: parseRepositoryName(name) }
    const claim = { by: 'test', forMs: 30_000 }
    const repository = await uploads.create(
      { id, key, place, owner: 'user:1', algorithm: undefined, maxOpen: 1000, claim },
      new Date(),
    )
    if (repository === undefined) throw new Error('too many uploads')
    const { id: repositoryId } = repository
    const received = { uploadId: id, claimedBy: 'test', key, repositoryId, digest }
    const kept = await storedBlobs.commit({ ...received, size: bytes.length }, new Date())
    if (kept === undefined) throw new Error('the claim was lost')
    return { repository, key, kept: kept.key }
  }

  const addImage: TestRegistryRecords['addImage'] = async (repository, image, tags) => {
    for (const child of image.children) await addImage(repository, child)
    for (const blob of image.blobs) await addBlob(repository, blob)
    return putManifest(repository, image.manifest, tags === undefined ? {} : { tags })
  }

  return {
    records,
    userId: user.id,
    projectId,
    caller: { kind: 'user', id: user.id, name: 'someone', access: undefined },
    createProject,
    addBlob,
    putManifest,
    addImage,
    async facts() {
      const rows = await records.selectFrom('outbox').select('body').orderBy('id').execute()
      return rows.map((row) => (JSON.parse(row.body) as { fact: EventFact }).fact)
    },
  }
}
