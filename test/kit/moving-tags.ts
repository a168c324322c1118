import assert from 'node:assert/strict'
import { setTimeout as delay } from 'node:timers/promises'
import { isDigest, type Digest } from '../../shared/oci/digest.ts'
import { blobsOf, createImage, pushImage, type Image } from './images.ts'
import type { Answer, RegistryClient } from './registry-client.ts'

/** A tag that is moved from image to image, always forwards. */
export interface MovingTag {
  readonly repository: string
  readonly tag: string
  /** Whether edges may answer it only when they hold all of its image. */
  readonly isComplete: boolean
}

/** What was pushed under a tag: each image once, in order. */
interface History {
  readonly images: Image[]
  readonly numberOf: Map<Digest, number>
  /** The last one that was acknowledged. */
  acknowledged: number
}

/** Moves tags at a primary, and tells whether what edges answer of them may be. */
export interface MovingTags {
  /** Starts to push; resolves to how to end it. */
  push(client: RegistryClient, pauseMs: number): { stop(): Promise<void> }
  /**
   * Pulls all tags through an edge again and again.
   * @returns how to end it, which rejects if something was answered that may not be
   */
  watch(
    edge: WatchedEdge,
    pauseMs: number,
  ): { readonly answers: () => number; stop(): Promise<void> }
  /** How many images were acknowledged. */
  readonly count: number
  /** The first tag that is not answered as it was acknowledged last, or later, with all of its image: what it is instead. */
  behindAt(edge: WatchedEdge): Promise<string | undefined>
}

export interface WatchedEdge {
  readonly name: string
  readonly client: RegistryClient
  /** Who may read none of it. */
  readonly stranger: RegistryClient
}

export function createMovingTags(tags: readonly MovingTag[], seed: number): MovingTags {
  const histories = new Map(
    tags.map((tag): [MovingTag, History] => [
      tag,
      { images: [], numberOf: new Map(), acknowledged: -1 },
    ]),
  )
  const pushOne = async (client: RegistryClient, tag: MovingTag, history: History) => {
    const number = history.images.length
    const name = `${seed} ${tag.repository}:${tag.tag} ${number}`
    // Long enough on its way for something to happen meanwhile.
    const layerBytes = tag.isComplete ? 300_000 : 20_000
    const image = createImage({ seed: name, layers: 2, layerBytes })
    history.images.push(image)
    history.numberOf.set(image.manifest.digest, number)
    await pushImage(client, tag.repository, image, tag.tag)
    history.acknowledged = number
  }
  /** @returns what was answered; undefined when the edge, or its connection, was cut */
  const ask = (client: RegistryClient, path: string): Promise<Answer | undefined> =>
    client.request('GET', `/v2/${path}`).catch(() => undefined)

  const pullBlobs = async (
    { name, client }: WatchedEdge,
    { repository, isComplete }: MovingTag,
    image: Image,
  ): Promise<boolean> => {
    let isWhole = true
    for (const { digest, bytes } of blobsOf(image)) {
      const blob = await ask(client, `${repository}/blobs/${digest}`)
      if (blob?.status === 200)
        assert.ok(blob.body.equals(bytes), `${name}: other bytes of ${repository} ${digest}`)
      else isWhole = false
      if (blob !== undefined && isComplete)
        assert.equal(
          blob.status,
          200,
          `${name}: a blob of the complete ${repository} is not given: ${String(blob.body)}`,
        )
    }
    return isWhole
  }

  const pullTag = async (
    edge: WatchedEdge,
    tag: MovingTag,
    last: number,
  ): Promise<{ readonly number: number; readonly isWhole: boolean; readonly status?: number }> => {
    const { name, client, stranger } = edge
    const path = `${tag.repository}/manifests/${tag.tag}`
    const denied = await ask(stranger, path)
    assert.notEqual(denied?.status, 200, `${name}: a stranger was given ${path}`)
    const answer = await ask(client, path)
    // It may have nothing to say for a while; never what is not true.
    if (answer === undefined || answer.status !== 200) {
      if (last >= 0)
        assert.notEqual(answer?.status, 404, `${name}: ${path} is gone: ${String(answer?.body)}`)
      return { number: last, isWhole: false, ...(answer && { status: answer.status }) }
    }
    const history = histories.get(tag)
    const digest = String(answer.headers['docker-content-digest'])
    const number = (isDigest(digest) && history?.numberOf.get(digest)) as number | undefined
    const image = history?.images[number ?? -1]
    assert.ok(
      number !== undefined && image !== undefined,
      `${name}: ${path} names what nobody pushed`,
    )
    assert.ok(answer.body.equals(image.manifest.bytes), `${name}: other bytes of ${path}`)
    assert.ok(number >= last, `${name}: ${path} went back from ${last} to ${number}`)
    return { number, isWhole: await pullBlobs(edge, tag, image) }
  }

  return {
    push(client, pauseMs) {
      let isStopping = false
      const pushing = (async () => {
        while (!isStopping)
          for (const [tag, history] of histories) {
            await pushOne(client, tag, history).catch(() => undefined)
            await delay(pauseMs)
          }
      })()
      return {
        async stop() {
          isStopping = true
          await pushing
        },
      }
    },
    watch(edge, pauseMs) {
      let isStopping = false
      let answers = 0
      const lasts = new Map<MovingTag, number>()
      const watching = (async () => {
        while (!isStopping) {
          for (const tag of tags) {
            const before = lasts.get(tag) ?? -1
            const { number, isWhole } = await pullTag(edge, tag, before)
            if (isWhole) answers++
            lasts.set(tag, number)
          }
          await delay(pauseMs)
        }
      })()
      watching.catch(() => undefined)
      return {
        answers: () => answers,
        async stop() {
          isStopping = true
          await watching
        },
      }
    },
    get count() {
      return [...histories.values()].reduce((sum, { acknowledged }) => sum + acknowledged + 1, 0)
    },
    async behindAt(edge) {
      for (const [tag, { acknowledged }] of histories) {
        const { number, isWhole, status = 'no answer' } = await pullTag(edge, tag, -1)
        const name = `${tag.repository}:${tag.tag}`
        if (number < 0) return `${name}: ${status}`
        if (number < acknowledged || !isWhole)
          return `${name} is ${number} of ${acknowledged}, ${isWhole ? '' : 'not '}whole`
      }
      return undefined
    },
  }
}
