import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Upstream } from '../kit/upstream.ts'
import { printed, pushRandomImage, runClient } from './images.ts'
import { subfolder, type Outport } from './outport.ts'

/**
 * Puts an image into docker.io's stand-in as library/app:v1, by way of the primary that made it.
 * @returns its digest
 */
export async function fillHub(
  outport: Outport,
  hub: Upstream,
  options: { readonly layerBytes?: number } = {},
): Promise<string> {
  const image = `${outport.primary}/library/hub:v1`
  const digest = await pushRandomImage(outport, image, options)
  const layout = await subfolder(outport, 'hub')
  const plain = outport.scheme === 'http' ? ['--insecure'] : []
  printed(await runClient(outport, ['crane', 'pull', ...plain, '--format=oci', image, layout]))
  const read = (name: string) => readFile(join(layout, 'blobs', name.replace(':', '/')))
  const manifest = await read(digest)
  const { config, layers, mediaType } = JSON.parse(manifest.toString()) as {
    mediaType: string
    config: { digest: string }
    layers: { digest: string }[]
  }
  for (const blob of [config, ...layers]) hub.addBlob('library/app', await read(blob.digest))
  hub.addManifest('library/app', manifest, { mediaType, tag: 'v1' })
  return digest
}
