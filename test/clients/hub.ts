import type { Upstream } from '../kit/upstream.ts'
import { pushRandomImage } from './images.ts'
import type { Outport } from './outport.ts'

/**
 * Puts an image into docker.io's stand-in as library/app:v1, by way of the primary that made it.
 * @returns its digest
 */
export async function fillHub(outport: Outport, hub: Upstream): Promise<string> {
  const digest = await pushRandomImage(outport, `${outport.primary}/library/hub:v1`)
  const base = `http://${outport.primary}/v2/library/hub`
  const authorization = `Basic ${btoa(`admin:${outport.password}`)}`
  const get = async (path: string) =>
    Buffer.from(
      await (await fetch(`${base}/${path}`, { headers: { authorization } })).arrayBuffer(),
    )
  const manifest = await get(`manifests/${digest}`)
  const { config, layers, mediaType } = JSON.parse(manifest.toString()) as {
    mediaType: string
    config: { digest: string }
    layers: { digest: string }[]
  }
  for (const blob of [config, ...layers])
    hub.addBlob('library/app', await get(`blobs/${blob.digest}`))
  hub.addManifest('library/app', manifest, { mediaType, tag: 'v1' })
  return digest
}
