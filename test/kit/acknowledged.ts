import assert from 'node:assert/strict'
import { setTimeout as delay } from 'node:timers/promises'
import { createImage, pushBlob, pushManifest, type Content } from './images.ts'
import { createRandom } from './random.ts'
import type { RegistryClient } from './registry-client.ts'

/** What a registry said it has. */
export interface Acknowledged {
  readonly blobs: readonly Content[]
  readonly manifests: readonly { readonly content: Content; readonly tag: string }[]
  /** Stops the pushes, and waits for those that run. */
  stop(): Promise<void>
}

interface PushOptions {
  readonly repository: string
  readonly seed: number
  /** Pushes at once; each needs its client. */
  readonly clients: readonly RegistryClient[]
  /** The pause after each image. */
  readonly pauseMs?: number
}

/**
 * Pushes images without end, whatever happens to the registry, and remembers what was answered 201.
 * What is answered by an error, or not at all, is forgotten: it may be there or not.
 */
export function pushForever({ repository, seed, clients, pauseMs = 0 }: PushOptions): Acknowledged {
  const blobs: Content[] = []
  const manifests: { content: Content; tag: string }[] = []
  let isStopping = false
  const pushOne = async (client: RegistryClient, name: string, layerBytes: number) => {
    const image = createImage({ seed: name, layers: 2, layerBytes })
    for (const blob of image.blobs) {
      const answer = await pushBlob(client, repository, blob)
      if (answer.status !== 201) return
      blobs.push(blob)
    }
    const pushed = await pushManifest(client, repository, image.manifest, name)
    if (pushed.status === 201) manifests.push({ content: image.manifest, tag: name })
  }
  const push = async (client: RegistryClient, pusher: number) => {
    const random = createRandom(seed + pusher)
    for (let number = 0; !isStopping; number++) {
      const layerBytes = random.between(1, 512 * 1024)
      try {
        await pushOne(client, `image-${seed}-${pusher}-${number}`, layerBytes)
      } catch {
        // The registry was killed.
        await delay(20)
      }
      await delay(pauseMs)
    }
  }
  const pushing = Promise.all(clients.map(push))
  return {
    blobs,
    manifests,
    async stop() {
      isStopping = true
      await pushing
    },
  }
}

/** Checks that everything from `since` on is there, by digest and by tag, byte for byte. */
export async function assertThere(
  client: RegistryClient,
  repository: string,
  {
    blobs,
    manifests,
  }: {
    readonly blobs: readonly Content[]
    readonly manifests: readonly { readonly content: Content; readonly tag?: string }[]
  },
): Promise<void> {
  for (const blob of blobs) {
    const answer = await client.request('GET', `/v2/${repository}/blobs/${blob.digest}`)
    assert.equal(answer.status, 200, `blob ${blob.digest} at ${client.baseUrl.origin}`)
    assert.ok(answer.body.equals(blob.bytes), `other bytes of ${blob.digest}`)
  }
  for (const { content, tag } of manifests) {
    for (const reference of tag === undefined ? [content.digest] : [tag, content.digest]) {
      const answer = await client.request('GET', `/v2/${repository}/manifests/${reference}`, {
        headers: { Accept: content.mediaType },
      })
      assert.equal(answer.status, 200, `manifest ${reference} at ${client.baseUrl.origin}`)
      assert.ok(answer.body.equals(content.bytes), `other bytes of ${reference}`)
    }
  }
}
