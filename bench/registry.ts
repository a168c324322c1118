import { createReadStream } from 'node:fs'
import { request as plainRequest, type IncomingMessage } from 'node:http'
import { request as tlsRequest } from 'node:https'
import { Readable } from 'node:stream'
import { buffer } from 'node:stream/consumers'
import { pipeline } from 'node:stream/promises'
import type { RepositoryName } from '../shared/oci/reference.ts'
import type { BenchManifest, BlobFile } from './content.ts'
import type { Server } from './servers.ts'

/** Just enough of a registry's client to put things in place. */
export interface RegistryClient {
  /** The value of an `Authorization` header that is good for pulls, or pushes too; undefined where none is asked for. */
  authorize(actions: 'pull' | 'pull,push'): Promise<string | undefined>
  /** In one PUT. */
  pushBlob(blob: BlobFile): Promise<void>
  /** In PATCHes of `chunkBytes`. */
  pushBlobInChunks(blob: BlobFile, chunkBytes: number): Promise<void>
  pushManifest(manifest: BenchManifest, tag: string): Promise<void>
  /** Reads a whole answer. @throws Error unless it is a 200 */
  get(path: string): Promise<Buffer>
}

interface Outgoing {
  readonly method: string
  readonly path: string
  readonly headers?: Record<string, string | number>
  readonly body?: Readable | Buffer
}

/** @param credentials for the token service of the server's challenge; anonymous without */
export function createRegistryClient(
  server: Pick<Server, 'name' | 'origin' | 'ca'>,
  {
    repository,
    credentials,
  }: {
    repository: RepositoryName
    credentials?: { readonly username: string; readonly password: string }
  },
): RegistryClient {
  let authorization: string | undefined

  const send = async (outgoing: Outgoing): Promise<IncomingMessage> => {
    const { method, path, body } = outgoing
    const url = new URL(path, server.origin)
    const headers = {
      accept: acceptedTypes,
      ...outgoing.headers,
      ...(authorization === undefined ? {} : { authorization }),
    }
    const options = { method, headers, ...(server.ca === undefined ? {} : { ca: server.ca }) }
    const request =
      url.protocol === 'https:' ? tlsRequest(url, options) : plainRequest(url, options)
    const response = new Promise<IncomingMessage>((resolve, reject) => {
      request.once('response', resolve)
      request.once('error', reject)
    })
    const source = Buffer.isBuffer(body) ? Readable.from([body]) : (body ?? Readable.from([]))
    await pipeline(source, request)
    return response
  }
  const expect = async (status: number, outgoing: Outgoing): Promise<Answer> => {
    const response = await send(outgoing)
    const body = await buffer(response)
    if (response.statusCode !== status)
      throw new Error(
        `${server.name}: ${outgoing.method} ${outgoing.path} answered ${response.statusCode} ${body.toString().slice(0, 300)}`,
      )
    return { headers: response.headers, body }
  }
  const locationOf = ({ headers }: Answer): URL => {
    if (headers.location === undefined) throw new Error(`${server.name}: no Location`)
    return new URL(headers.location, server.origin)
  }
  const startUpload = async (): Promise<URL> =>
    locationOf(
      await expect(202, {
        method: 'POST',
        path: `/v2/${repository}/blobs/uploads/`,
        headers: { 'content-length': 0 },
      }),
    )
  const pathOf = (location: URL, digest?: string): string => {
    if (digest !== undefined) location.searchParams.set('digest', digest)
    return location.pathname + location.search
  }

  return {
    async authorize(actions) {
      authorization = undefined
      const ping = await send({ method: 'GET', path: '/v2/' })
      await buffer(ping)
      const challenge = ping.headers['www-authenticate']
      if (challenge === undefined) return undefined
      const field = (name: string): string =>
        new RegExp(`${name}="([^"]*)"`).exec(challenge)?.[1] ?? ''
      const realm = new URL(field('realm'))
      realm.searchParams.set('service', field('service'))
      realm.searchParams.set('scope', `repository:${repository}:${actions}`)
      if (credentials !== undefined) {
        const { username, password } = credentials
        authorization = `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}`
      }
      const { body } = await expect(200, { method: 'GET', path: realm.pathname + realm.search })
      const { token } = JSON.parse(body.toString()) as { token: string }
      authorization = `Bearer ${token}`
      return authorization
    },
    async pushBlob({ path, digest, size }) {
      await expect(201, {
        method: 'PUT',
        path: pathOf(await startUpload(), digest),
        headers: { 'content-length': size, 'content-type': 'application/octet-stream' },
        body: createReadStream(path, { highWaterMark: readBytes }),
      })
    },
    async pushBlobInChunks({ path, digest, size }, chunkBytes) {
      let location = await startUpload()
      for (let start = 0; start < size; start += chunkBytes) {
        const end = Math.min(start + chunkBytes, size) - 1
        const answer = await expect(202, {
          method: 'PATCH',
          path: pathOf(location),
          headers: {
            'content-length': end + 1 - start,
            'content-range': `${start}-${end}`,
            'content-type': 'application/octet-stream',
          },
          body: createReadStream(path, { start, end, highWaterMark: readBytes }),
        })
        location = locationOf(answer)
      }
      await expect(201, {
        method: 'PUT',
        path: pathOf(location, digest),
        headers: { 'content-length': 0 },
      })
    },
    async pushManifest({ bytes, mediaType }, tag) {
      await expect(201, {
        method: 'PUT',
        path: `/v2/${repository}/manifests/${tag}`,
        headers: { 'content-length': bytes.length, 'content-type': mediaType },
        body: bytes,
      })
    },
    async get(path) {
      return (await expect(200, { method: 'GET', path })).body
    },
  }
}

/** As containerd asks. */
export const acceptedTypes = [
  'application/vnd.docker.distribution.manifest.v2+json',
  'application/vnd.docker.distribution.manifest.list.v2+json',
  'application/vnd.oci.image.manifest.v1+json',
  'application/vnd.oci.image.index.v1+json',
  '*/*',
].join(', ')

const readBytes = 1024 * 1024

interface Answer {
  readonly headers: IncomingMessage['headers']
  readonly body: Buffer
}
