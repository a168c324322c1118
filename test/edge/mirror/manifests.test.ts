import assert from 'node:assert/strict'
import { test, type TestContext } from 'node:test'
import type { CacheIndex, Origin } from '../../../edge/cache/cache-index.ts'
import { createMemoryCache } from '../../../edge/cache/memory.ts'
import { createManifests, type Manifests } from '../../../edge/mirror/manifests.ts'
import { createSources } from '../../../edge/sources/sources.ts'
import { mediaTypes } from '../../../shared/oci/media-types.ts'
import { isTag, parseRepositoryName } from '../../../shared/oci/reference.ts'
import type { UpstreamClient } from '../../../shared/upstream/fetch.ts'
import { createUpstreamClient } from '../../../shared/upstream/client.ts'
import { createRegistries } from '../../../shared/upstream/registries.ts'
import { openTestCache, type TestCache } from '../../kit/cache.ts'
import { waitFor } from '../../kit/clock.ts'
import { tempFolder } from '../../kit/temp.ts'
import { startUpstream, type Upstream } from '../../kit/upstream.ts'

const origin: Origin = { upstream: 'hub', repository: parseRepositoryName('team/app') }
const document = { schemaVersion: 2, mediaType: mediaTypes.ociIndex, manifests: [] }

function clientOf(t: TestContext, { url }: Upstream): UpstreamClient {
  const [entry] = createRegistries([{ id: 'hub', url }]).entries
  assert.ok(entry)
  const client = createUpstreamClient({ entry })
  t.after(() => client.close())
  return client
}

function manifestsOf(
  { index, blobs }: TestCache,
  client: UpstreamClient,
  { tagTtlMs = 0 }: { tagTtlMs?: number } = {},
): Manifests {
  return createManifests({
    index,
    blobs,
    memory: createMemoryCache(4096),
    client: () => client,
    sources: createSources(() => client),
    rules: () => ({
      ttlMs: tagTtlMs,
      waitMs: 1000,
      mayRefresh: true,
      maxStaleMs: Infinity,
      negativeTtlMs: 0,
      rateBudget: 0,
    }),
    stated: { tag: () => undefined, isDenied: () => false, take: () => Promise.resolve() },
    onStale: () => undefined,
    onTagMoved: () => undefined,
    onFetched: () => undefined,
    now: Date.now,
    onDiskFailed: (error) => assert.fail(String(error)),
  })
}

test('a crash between what is written of a manifest leaves none that is stored without its link', async (t) => {
  const upstream = await startUpstream()
  t.after(() => upstream.close())
  const digest = upstream.addManifest(origin.repository, document)
  const client = clientOf(t, upstream)
  const root = await tempFolder(t)
  const crashed = Promise.withResolvers<void>()
  const first = await openTestCache(root, {
    wrapIndex: (index: CacheIndex): CacheIndex => ({
      ...index,
      async putStored(stored, entry) {
        await index.putStored(stored, entry)
        await crashed.promise
      },
    }),
  })
  const asked = manifestsOf(first, client).get(origin, digest)
  await waitFor('the manifest to be stored', () => first.blobs.size(digest) !== undefined)
  await first.close()
  await upstream.down()
  const second = await openTestCache(root)
  t.after(() => second.close())
  const held = await manifestsOf(second, client).get(origin, digest)
  assert.equal(held?.source, 'disk')
  assert.equal(held.mediaType, mediaTypes.ociIndex)
  crashed.resolve()
  await asked
})

test('a link without its manifest leads to the upstream', async (t) => {
  const upstream = await startUpstream()
  t.after(() => upstream.close())
  const digest = upstream.addManifest(origin.repository, document)
  const cache = await openTestCache(await tempFolder(t))
  t.after(() => cache.close())
  await cache.blobs.addLink(origin, digest, { mediaType: mediaTypes.ociIndex })
  const manifests = manifestsOf(cache, clientOf(t, upstream))
  assert.equal((await manifests.get(origin, digest))?.source, 'upstream')
  assert.equal((await manifests.get(origin, digest))?.source, 'memory')
})

test('a tag of a name that was made again in another project is asked for again', async (t) => {
  const upstream = await startUpstream()
  t.after(() => upstream.close())
  const tag = 'v1'
  assert.ok(isTag(tag))
  const cache = await openTestCache(await tempFolder(t))
  t.after(() => cache.close())
  const manifests = manifestsOf(cache, clientOf(t, upstream), { tagTtlMs: 3_600_000 })
  const [before, after] = [
    { ...origin, project: 1 },
    { ...origin, project: 2 },
  ]
  const old = upstream.addManifest(origin.repository, document, { tag })
  assert.equal((await manifests.resolve(before, tag))?.digest, old)
  const annotations = { made: 'again' }
  const now = upstream.addManifest(origin.repository, { ...document, annotations }, { tag })
  assert.equal((await manifests.resolve(before, tag))?.digest, old, 'within its TTL')
  assert.equal(manifests.known(after, { kind: 'tag', tag }), undefined)
  assert.equal((await manifests.resolve(after, tag))?.digest, now)
  assert.equal(manifests.known(after, { kind: 'tag', tag })?.digest, now)
})
