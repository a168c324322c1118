import { ApiError } from '../../shared/api/errors.ts'
import type { Digest } from '../../shared/oci/digest.ts'
import { parseManifest, requiredBlobs } from '../../shared/oci/manifest.ts'
import { isOnPlatform } from '../../shared/replication/platforms.ts'
import type { StoredManifest } from '../store/manifests.ts'
import type { PreheatBlob } from '../store/schema.ts'

/**
 * All that an edge has to hold of an image, the manifests included.
 * @returns undefined when the image itself is not there; a child that is not is left out
 * @throws ApiError BAD_REQUEST when an index has no image for any of the platforms
 */
export async function manifestsAndBlobsOf(
  { digest, platforms }: { readonly digest: Digest; readonly platforms: readonly string[] },
  get: (digest: Digest) => Promise<StoredManifest | undefined>,
): Promise<readonly PreheatBlob[] | undefined> {
  const sizes = new Map<string, number>()
  const add = async (of: Digest): Promise<boolean> => {
    const stored = sizes.has(of) ? undefined : await get(of)
    if (stored === undefined) return false
    const { content, mediaType } = stored
    sizes.set(of, content.length)
    const manifest = parseManifest(content, mediaType)
    for (const blob of requiredBlobs(manifest)) sizes.set(blob.digest, blob.size)
    const children = manifest.manifests.filter((child) => isOnPlatform(child, platforms))
    const isMeant = children.some(({ platform }) => platform?.os !== 'unknown')
    if (platforms.length > 0 && manifest.manifests.length > 0 && !isMeant)
      throw new ApiError('BAD_REQUEST', `the image has nothing for ${platforms.join(', ')}`)
    for (const child of children) await add(child.digest)
    return true
  }
  if (!(await add(digest))) return undefined
  return [...sizes].map(([blob, size]) => ({ digest: blob, size }))
}
