import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { createFollowedCache } from '../../primary/events/followed-cache.ts'
import { createAccess } from '../../primary/registry/access.ts'
import {
  createUploadSessions,
  type UploadsDeps,
  type UploadSessions,
} from '../../primary/registry/uploads.ts'
import type { BlobStore } from '../../primary/store/blobs.ts'
import type { Disk } from '../../primary/store/disk.ts'
import { createFsBlobs } from '../../primary/store/fs-blobs.ts'
import { createLookups } from '../../primary/store/lookups.ts'
import { createStoredBlobs, type StoredBlobs } from '../../primary/store/stored-blobs.ts'
import { createUploads } from '../../primary/store/uploads.ts'
import { parseRepositoryName, type RepositoryName } from '../../shared/oci/reference.ts'
import { createRegistryRecords, type TestRegistryRecords } from './registry-records.ts'

/** The parts below the sessions, as they are or as a test replaces them. */
export interface UploadParts {
  readonly blobs: BlobStore
  readonly storedBlobs: StoredBlobs
}

export interface TestUploadsOptions {
  readonly disk?: Disk
  /** Puts something between the sessions and their parts. */
  readonly adapt?: (parts: UploadParts) => Partial<UploadParts>
}

/** Upload sessions over a real database and a real folder, in the one process. */
export interface TestUploads extends TestRegistryRecords, UploadParts {
  readonly sessions: UploadSessions
  /** Where the caller, who may push there, puts its uploads. */
  readonly target: {
    readonly caller: TestRegistryRecords['caller']
    readonly repository: RepositoryName
  }
  /** As if the holder of a session's claim had been silent for too long. */
  lapse(id: string): Promise<void>
}

const limits: UploadsDeps['limits'] = {
  concurrent: 10,
  concurrentPerAccount: 10,
  openPerAccount: 1000,
}

export async function createTestUploads(
  t: TestContext,
  { disk, adapt }: TestUploadsOptions = {},
): Promise<TestUploads> {
  const kit = await createRegistryRecords(t)
  const { records, projectId, userId } = kit
  await records
    .insertInto('members')
    .values({ project_id: projectId, user_id: userId, role_id: 1 })
    .execute()
  const root = await mkdtemp(join(tmpdir(), 'outport-uploads-'))
  const blobs = await createFsBlobs({ root, openFiles: 8, ...(disk && { disk }) })
  t.after(async () => {
    blobs.close()
    await rm(root, { recursive: true, force: true })
  })
  const storedBlobs = createStoredBlobs(records)
  const parts = { blobs, storedBlobs }
  const follower = { isCurrent: () => false, onChange: () => undefined }
  const sessions = createUploadSessions({
    access: createAccess({
      lookups: createLookups(records),
      revive: (condemned) => storedBlobs.revive(condemned),
      decisions: createFollowedCache({ follower, maxEntries: 1 }),
      links: createFollowedCache({ follower, maxEntries: 1 }),
      challenge: () => 'Bearer realm="x"',
      now: Date.now,
    }),
    records: createUploads(records),
    ...parts,
    ...adapt?.(parts),
    primaryId: 'test',
    limits,
    claimMs: 30_000,
  })
  return {
    ...kit,
    ...parts,
    sessions,
    target: { caller: kit.caller, repository: parseRepositoryName('library/app') },
    async lapse(id) {
      await records
        .updateTable('uploads')
        .set({ claimed_until: new Date(0) })
        .where('id', '=', id)
        .execute()
    },
  }
}
