import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createFollowedCache } from '../../../primary/events/followed-cache.ts'
import { createAccess } from '../../../primary/registry/access.ts'
import { PullCounts } from '../../../primary/registry/pull-counts.ts'
import { createPull } from '../../../primary/registry/pull.ts'
import type { BlobReader } from '../../../primary/store/blobs.ts'
import { createLookups } from '../../../primary/store/lookups.ts'
import { createManifests } from '../../../primary/store/manifests.ts'
import { createTags } from '../../../primary/store/tags.ts'
import { parseReference, parseRepositoryName } from '../../../shared/oci/reference.ts'
import { createImage } from '../../kit/images.ts'
import { createRegistryRecords, testActor } from '../../kit/registry-records.ts'

test('a tag that moves while it is read, and whose old manifest is deleted, is found where it is now', async (t) => {
  const { records, caller, addImage } = await createRegistryRecords(t)
  const [before, after] = [createImage({ seed: 'before' }), createImage({ seed: 'after' })]
  await addImage('library/app', before, ['latest'])
  const manifests = createManifests(records)
  const listeners: ((subjects: readonly string[] | undefined) => void)[] = []
  const follower = {
    isCurrent: () => true,
    onChange: (listener: (typeof listeners)[number]) => void listeners.push(listener),
  }
  const cache = { follower, maxEntries: 10 }
  // Behind the answer to the tag and before that to the digest, at another primary: no event has come yet.
  let move: (() => Promise<void>) | undefined = async () => {
    move = undefined
    const repository = await addImage('library/app', after, ['latest'])
    const digest = before.manifest.digest
    await manifests.remove({ repository, digest, actor: testActor }, new Date())
  }
  const pull = createPull({
    access: createAccess({
      lookups: createLookups(records),
      revive: async () => false,
      decisions: createFollowedCache(cache),
      links: createFollowedCache(cache),
      challenge: () => 'Bearer realm="x"',
      now: Date.now,
    }),
    manifests: {
      ...manifests,
      async get(...key) {
        await move?.()
        return manifests.get(...key)
      },
    },
    tags: createTags(records),
    blobs: {} as BlobReader,
    hotManifests: createFollowedCache(cache),
    hotTags: createFollowedCache(cache),
    counts: new PullCounts({
      add: async () => undefined,
      onError: (error) => assert.fail(String(error)),
      now: () => new Date(),
      intervalMs: 5,
    }),
    invalidate: (subjects) => {
      for (const listener of listeners) listener(subjects)
    },
    smallBlobsBytes: 1024,
  })
  const found = await pull.manifest({
    caller,
    repository: parseRepositoryName('library/app'),
    reference: parseReference('latest'),
    accept: undefined,
    counted: () => false,
  })
  assert.equal(found.digest, after.manifest.digest)
})
